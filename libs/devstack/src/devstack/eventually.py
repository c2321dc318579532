"""Waiting for what announces itself to nobody, with a deadline: what another process does, or another task."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any

__all__ = ["eventually", "eventually_blocking"]

_PATIENCE_SECONDS = 30.0
_PAUSE_SECONDS = 0.02


async def eventually(
    condition: Callable[[], Awaitable[Any] | Any],
    within_seconds: float = _PATIENCE_SECONDS,
    what: str = "a condition",
    *,
    every_seconds: float = _PAUSE_SECONDS,
) -> Any:
    """Return the condition's value (awaited when it can be) once it is true; raises TimeoutError, naming `what`."""
    try:
        async with asyncio.timeout(within_seconds):
            while True:
                value = condition()
                if inspect.isawaitable(value):
                    value = await value
                if value:
                    return value
                await asyncio.sleep(every_seconds)
    except TimeoutError as late:
        raise _did_not_happen(what, within_seconds) from late


def eventually_blocking(
    condition: Callable[[], Any],
    within_seconds: float = _PATIENCE_SECONDS,
    what: str = "a condition",
    *,
    every_seconds: float = _PAUSE_SECONDS,
) -> Any:
    """The same for code without an event loop."""
    deadline = time.monotonic() + within_seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise _did_not_happen(what, within_seconds)
        time.sleep(every_seconds)
    return value


def _did_not_happen(what: str, seconds: float) -> TimeoutError:
    return TimeoutError(f"waited {seconds:g} s for {what}")
