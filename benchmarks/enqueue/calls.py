"""Drafts, and their enqueues one at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from bulksms_client import AsyncClient

FIRST_PHONE = 306_900_000_000


async def drafts(
    client: AsyncClient, number: int, *, groups: Sequence[str], exclude_groups: Sequence[str] = ()
) -> list[str]:
    """So many campaigns to this audience."""
    made = []
    for index in range(number):
        draft = await client.campaigns.create(
            name=f"c{index}",
            text="Hi {{first_name}}",
            sender="Acme",
            groups=groups,
            exclude_groups=exclude_groups,
        )
        made.append(draft.campaign_id)
    return made


async def enqueue(
    client: AsyncClient,
    campaign_ids: Sequence[str],
    pause_seconds: float,
    before: Callable[[int], Awaitable[object]] | None = None,
) -> list[float]:
    """How long each took; `before` is called before each with its number, and is not part of it."""
    latencies = []
    for number, campaign_id in enumerate(campaign_ids):
        await asyncio.sleep(pause_seconds)
        if before is not None:
            await before(number)
        started = time.perf_counter()
        await client.campaigns.enqueue(campaign_id)
        latencies.append(time.perf_counter() - started)
    return latencies
