"""Audiences of several groups less another: never counted, kept, followed, and stale."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable, Iterable, Sequence

from benchmarks.enqueue.calls import FIRST_PHONE, drafts, enqueue
from benchmarks.report import Figure, Meter
from bulksms_client import AsyncClient

_GROUPS, _EXCLUDED = ("customers", "newsletter"), ("complained",)


async def import_groups(client: AsyncClient, contacts: int) -> None:
    """Half of the contacts, the customers, read the newsletter; a tenth has complained."""
    await _import(client, range(0, contacts, 2), ["newsletter"])
    await _import(client, range(0, contacts, 10), ["complained"])


async def measure(
    client: AsyncClient, contacts: int, calls: int, pause_seconds: float, meter: Callable[[], Meter]
) -> list[Figure]:
    """What an enqueue takes; nothing is counted ahead, because no worker runs."""
    scenario = f"EnqueueCampaign, 2 groups less 1 of {contacts:,} contacts"
    campaign_ids = await drafts(client, 2 * calls + 2, groups=_GROUPS, exclude_groups=_EXCLUDED)
    never_counted, kept, followed, stale = (
        campaign_ids[:1],
        campaign_ids[1 : calls + 1],
        campaign_ids[calls + 1 : 2 * calls + 1],
        campaign_ids[2 * calls + 1 :],
    )

    async def figure(
        name: str, chosen: Sequence[str], before: Callable[[int], Awaitable[object]] | None = None
    ) -> Figure:
        metered = meter()
        latencies = await enqueue(client, chosen, pause_seconds, before)
        return metered.figure(f"{scenario}, {name}", len(chosen), latencies)

    async def opt_out(number: int) -> None:
        await client.contacts.opt_out(f"+{FIRST_PHONE + 10 * number + 1}", source="benchmark")

    figures = [
        await figure("never counted", never_counted),
        await figure("kept", kept),
        await figure("an opt-out before each", followed, opt_out),
    ]
    await _import(client, [1], ["complained"])
    return [*figures, await figure("after an import", stale)]


async def _import(client: AsyncClient, numbers: Iterable[int], groups: Sequence[str]) -> None:
    lines = "".join(f"+{FIRST_PHONE + number}\n" for number in numbers)
    await client.contacts.import_csv(io.BytesIO(f"phone\n{lines}".encode()), groups=groups)
