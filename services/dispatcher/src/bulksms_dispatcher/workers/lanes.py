"""Lanes: claims for the senders of this process, from the lane whose turn it is."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from bulksms_dispatcher.domain.batches import Lane, LeasedBatch
from bulksms_dispatcher.domain.lane_rotation import LaneRotation
from bulksms_dispatcher.domain.protocol import BatchState
from bulksms_dispatcher.storage import claims, outcomes
from bulksms_dispatcher.workers.traffic_account import TrafficAccount
from servicekit.clock import Clock
from servicekit.database import Database
from servicekit.waiting import is_set_within

__all__ = ["Lanes"]

POLL_SECONDS = 1.0
"""How long a batch can go unnoticed when a signal was lost."""
# However many signals come: a look at all lanes costs as much as a claim.
_READ_AGAIN_SECONDS = 0.02


class Lanes:
    """One claim at a time; knows which lanes are due, which tenants are at their limit, and what the account allows."""

    def __init__(
        self, database: Database, account: TrafficAccount, worker: str, lease: timedelta, clock: Clock
    ) -> None:
        self._database = database
        self._account = account
        self._worker = worker
        self._lease = lease
        self._clock = clock
        self._lock = asyncio.Lock()
        self._signalled = asyncio.Event()
        self._stale = True
        self._read_at = 0.0
        self._next_due = float("inf")
        self._rotation = LaneRotation()
        self._tenant_blocked: dict[str, float] = {}
        self._all_blocked = 0.0
        self._leased: set[UUID] = set()
        self._claim_lost = False

    def notify(self) -> None:
        """There may be something new to claim."""
        self._stale = True
        self._signalled.set()
        self._signalled = asyncio.Event()

    def notify_after(self, delay: timedelta) -> None:
        """There will be something to claim: a batch was handed back for so long."""
        if delay:
            self._next_due = min(self._next_due, self._clock.monotonic() + delay.total_seconds())
        else:
            self.notify()

    def block_tenant(self, tenant_id: str, wait: timedelta) -> None:
        """The tenant is at its limit: do not claim its batches for so long."""
        self._tenant_blocked[tenant_id] = self._clock.monotonic() + wait.total_seconds()

    def block_all(self, wait: timedelta) -> None:
        """The account, or everything together, is at its limit."""
        self._all_blocked = max(self._all_blocked, self._clock.monotonic() + wait.total_seconds())

    async def claim(self, *, at_least: int = 0) -> LeasedBatch | None:
        """Lease the next batch of a priority of at least `at_least`; None when there is none now."""
        async with self._lock:
            now = self._clock.monotonic()
            if now < self._all_blocked:
                return None
            if self._claim_lost:
                await self._return_lost()
            if now >= min(self._next_read(), self._next_due):
                await self._read(now)
            self._forget_past_blocks(now)
            while (lane := self._choose(at_least)) is not None:
                batch = await self._claim_from(lane)
                if batch is not None:
                    self._rotation.note_served(lane)
                    self._leased.add(batch.batch_id)
                    return await self._with_probe(batch, lane)
                self._rotation.close(lane)
            return None

    def finished(self, batch: LeasedBatch) -> None:
        """A batch that `claim` gave out is no longer being worked on."""
        self._leased.discard(batch.batch_id)

    async def wait(self) -> None:
        """Return when a claim may succeed: signalled, a block over, a batch due, or time to look again."""
        signalled = self._signalled
        now = self._clock.monotonic()
        ends = [now + POLL_SECONDS, self._next_due]
        if now < self._all_blocked:
            # Nothing can be claimed before, whatever signals come.
            await asyncio.sleep(min(self._all_blocked - now, POLL_SECONDS))
            return
        if self._stale:
            # Signalled while the claim was under way, or too soon after the last look.
            await asyncio.sleep(max(self._next_read() - now, 0))
            return
        ends += [end for end in self._tenant_blocked.values() if end > now]
        await is_set_within(signalled, max(min(ends) - now, 0.001))

    def _choose(self, at_least: int) -> Lane | None:
        """While the account is held, a lane that can say more than the one it is held for."""
        blocked = self._tenant_blocked
        if self._account.is_free:
            return self._rotation.choose(at_least, blocked)
        keeps_back, is_offender = self._account.keeps_back, self._account.is_offender
        return self._rotation.choose(
            at_least, blocked, lambda lane: keeps_back(lane) or is_offender(lane)
        ) or self._rotation.choose(at_least, blocked, keeps_back)

    async def _with_probe(self, batch: LeasedBatch, lane: Lane) -> LeasedBatch | None:
        """With the leave to be sent where its lane is held; without one, it goes back."""
        if not self._account.is_held(lane):
            return batch
        probe = None
        try:
            probe = await self._account.begin_probe(lane)
        finally:
            if probe is None:
                self._leased.discard(batch.batch_id)
                self._claim_lost = True
        return None if probe is None else replace(batch, probe=probe)

    async def _claim_from(self, lane: Lane) -> LeasedBatch | None:
        try:
            async with self._database.autocommit() as connection:
                return await claims.claim(
                    connection, lane, self._worker, self._lease, account=self._account.traffic_account_id
                )
        except BaseException:
            self._claim_lost = True
            raise

    async def _return_lost(self) -> None:
        """A claim whose commit was not confirmed may have leased a batch that nobody here knows of."""
        async with self._database.begin() as connection:
            for batch in await claims.find_leased(connection, self._worker):
                if batch.key.batch_id not in self._leased:
                    await outcomes.return_to_queue(connection, batch.key, batch.campaign_id, (BatchState.LEASED,))
        self._claim_lost = False
        self._stale = True

    def _next_read(self) -> float:
        return self._read_at + (_READ_AGAIN_SECONDS if self._stale else POLL_SECONDS)

    async def _read(self, now: float) -> None:
        self._stale = False
        async with self._database.autocommit() as connection:
            states = await claims.read_lanes(connection, self._account.traffic_account_id)
            await self._account.read(connection)
        self._read_at = now
        self._rotation.replace(state.lane for state in states if state.due_in_seconds <= 0)
        later = [state.due_in_seconds for state in states if state.due_in_seconds > 0]
        later.append(self._account.due_in_seconds(self._rotation.open_lanes))
        self._next_due = self._clock.monotonic() + min((s for s in later if s > 0), default=float("inf"))

    def _forget_past_blocks(self, now: float) -> None:
        over = [tenant for tenant, end in self._tenant_blocked.items() if end <= now]
        for tenant in over:
            del self._tenant_blocked[tenant]
