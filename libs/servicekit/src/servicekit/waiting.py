"""Waiting for an event, but not for ever."""

from __future__ import annotations

import asyncio

__all__ = ["is_set_within"]


async def is_set_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait for the event, so many seconds at most; tell whether it was set."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
