"""Status: state, counters and rate of a campaign, read once for everyone who watches it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from bulksms_campaign.domain.campaigns import ENDED, HOLDABLE, Campaign, CampaignState, campaign_not_found
from bulksms_campaign.domain.counters import Counters
from bulksms_campaign.domain.holds import Hold
from bulksms_campaign.domain.rates import time_remaining
from bulksms_campaign.storage.campaign_holds import read_hold
from bulksms_campaign.storage.campaigns import read_campaign
from bulksms_campaign.storage.counters import CampaignCounters, read_counters
from servicekit.clock import Clock
from servicekit.database import Database
from servicekit.errors import overloaded

MAX_RATE = 20.0
DEFAULT_RATE = 2.0
FRESH_FOR = timedelta(milliseconds=45)
"""Watchers of one campaign within this time share one read; below the period of the fastest watcher."""


@dataclass(frozen=True, slots=True)
class CampaignStatus:
    """State and progress at one moment."""

    campaign_id: UUID
    state: CampaignState
    counters: Counters
    rate_per_second: float
    remaining: timedelta | None
    observed_at: datetime
    hold: Hold | None = None


@dataclass(frozen=True, slots=True)
class _Read:
    at: float
    task: asyncio.Task[CampaignStatus]


class StatusReader:
    """Reads statuses; concurrent and very recent reads of one campaign are one."""

    def __init__(self, database: Database, clock: Clock, *, watch_limit: int) -> None:
        self._database = database
        self._clock = clock
        self._watch_limit = watch_limit
        self._watchers = 0
        self._reads: dict[tuple[str, UUID], _Read] = {}

    async def read(self, tenant_id: str, campaign_id: UUID) -> CampaignStatus:
        """The status now; CAMPAIGN_NOT_FOUND."""
        async with self._database.connect() as connection:
            campaign = await read_campaign(connection, tenant_id, campaign_id)
            if campaign is None:
                raise campaign_not_found(campaign_id)
            rows = await read_counters(connection, tenant_id, [campaign_id])
            stored = await read_hold(connection, tenant_id, campaign_id) if campaign.state in HOLDABLE else None
        return status_from(campaign, rows[campaign_id], stored.hold if stored is not None else None)

    async def watch(
        self, tenant_id: str, campaign_id: UUID, max_rate: float, *, until_delivered: bool
    ) -> AsyncIterator[tuple[CampaignStatus, bool]]:
        """(status, is the last one): at once, then whenever it changed, at most `max_rate` times a second."""
        if self._watchers >= self._watch_limit:
            raise overloaded(
                "TOO_MANY_WATCHERS",
                "Too many campaigns are being watched through this server: try again, or poll GetCampaignStatus.",
                retry_after=timedelta(seconds=2),
            )
        self._watchers += 1
        try:
            period = 1 / min(max(max_rate, 0.05), MAX_RATE)
            said: CampaignStatus | None = None
            while True:
                began = self._clock.monotonic()
                status = await self._shared(tenant_id, campaign_id)
                final = is_over(status, until_delivered=until_delivered)
                if said is None or final or _differs(said, status):
                    yield status, final
                    said = status
                if final:
                    return
                await asyncio.sleep(max(period - (self._clock.monotonic() - began), 0.01))
        finally:
            self._watchers -= 1

    async def _shared(self, tenant_id: str, campaign_id: UUID) -> CampaignStatus:
        key = tenant_id, campaign_id
        now = self._clock.monotonic()
        found = self._reads.get(key)
        if found is None or (now - found.at > FRESH_FOR.total_seconds() and found.task.done()):
            if len(self._reads) > 2 * self._watch_limit:
                self._reads.clear()
            found = _Read(now, asyncio.create_task(self.read(tenant_id, campaign_id)))
            self._reads[key] = found
        try:
            # One watcher's cancel must not take the read away from the others.
            return await asyncio.shield(found.task)
        except Exception:
            self._reads.pop(key, None)
            raise


def status_from(campaign: Campaign, row: CampaignCounters, hold: Hold | None) -> CampaignStatus:
    """The status that a campaign, its counters and what holds it make."""
    counters = row.counters
    ended = campaign.state in ENDED
    rate = 0.0 if ended else row.samples.rate_per_second(row.now, row.latest.processed)
    remaining = timedelta(0) if ended else time_remaining(counters.queued, rate)
    return CampaignStatus(campaign.campaign_id, campaign.state, counters, rate, remaining, row.now, hold)


def is_over(status: CampaignStatus, *, until_delivered: bool) -> bool:
    """Will nothing more be said to a watcher?"""
    counters = status.counters
    return status.state in ENDED and not (until_delivered and (counters.awaiting_report or counters.ambiguous))


def _differs(before: CampaignStatus, after: CampaignStatus) -> bool:
    return (
        before.state is not after.state
        or before.counters != after.counters
        or before.hold != after.hold
        or round(before.rate_per_second) != round(after.rate_per_second)
    )
