"""Requests in flight: every permit in use is followed to its end, and Redis hears from when its slot counts."""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import timedelta
from types import TracebackType
from typing import Self

from bulksms_dispatcher.metrics import Metrics
from bulksms_dispatcher.pacing.limiter import Limiter, PacingUnavailable
from bulksms_dispatcher.pacing.permits import Permit, ReleasedSlot
from servicekit import logs
from servicekit.clock import Clock, SystemClock

__all__ = ["InFlightRequest", "InFlightTracker"]

_AT_ONCE = 200
# Far more than a process has under way; beyond it the oldest are left to their permits' own end.
_WAITING = 10_000
_log = logs.get_logger("bulksms.dispatcher.pacing")


class InFlightTracker:
    """A component: releases rate-limit slots, all whose requests have arrived meanwhile in one call to Redis.

    Not being able to is no harm: a slot that is never released counts until its permit's end, and a window more.
    `arrival_grace`: so long after its last byte was written a request without a response counts as arrived. One with a
    response has arrived for certain; of slower ones it bounds how much later than others they may come to be counted.
    """

    name = "bulksms.dispatcher.in_flight"

    def __init__(
        self,
        limiter: Limiter,
        arrival_grace: timedelta,
        metrics: Metrics,
        *,
        clock: Clock = SystemClock(),  # noqa: B008 - has no state
    ) -> None:
        self._limiter = limiter
        self._arrival_grace = arrival_grace.total_seconds()
        self._metrics = metrics
        self._clock = clock
        self._waiting: deque[ReleasedSlot] = deque(maxlen=_WAITING)
        self._added = asyncio.Event()
        self._stopping = False

    def follow(self, permit: Permit) -> InFlightRequest:
        """Use a permit: `with tracker.follow(permit) as in_flight`."""
        return InFlightRequest(permit, self, self._arrival_grace, self._clock)

    def add(self, slot: ReleasedSlot) -> None:
        """Redis hears of it soon."""
        if slot.permit.keys:
            self._waiting.append(slot)
            self._added.set()

    def count_expired(self) -> None:
        """A permit was too old when its request was to begin."""
        self._metrics.pacing_expired.add(1)

    async def start(self) -> None:
        """Nothing to prepare."""

    async def run(self) -> None:
        """Release until stopped; what was added before is released still."""
        while self._waiting or not self._stopping:
            self._added.clear()
            if not self._waiting:
                await self._added.wait()
                continue
            slots = [self._waiting.popleft() for _ in range(min(len(self._waiting), _AT_ONCE))]
            try:
                await self._limiter.release_slots(slots)
            except PacingUnavailable:
                _log.warning("slots left to their permits' end: Redis does not answer", slots=len(slots))

    async def stop(self) -> None:
        """Release what was added, then end."""
        self._stopping = True
        self._added.set()


class InFlightRequest:
    """One request from its permit to the provider; leaving the block releases the slot if nothing has before."""

    def __init__(self, permit: Permit, tracker: InFlightTracker, grace_seconds: float, clock: Clock) -> None:
        self._permit = permit
        self._tracker = tracker
        self._grace = grace_seconds
        self._clock = clock
        self._begun = False
        self._released = False
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self) -> None:
        """Return when the request may begin."""
        while (left := self._permit.begins_at - self._clock.monotonic()) > 0:  # noqa: ASYNC110 - a timer may be early
            await asyncio.sleep(left)

    def begin(self) -> bool:
        """Asked right before the first byte; False when the permit is too old (a frozen process), or too new."""
        now = self._clock.monotonic()
        self._begun = self._permit.begins_at <= now < self._permit.ends_at
        if now >= self._permit.ends_at:
            self._tracker.count_expired()
        return self._begun

    def written(self) -> None:
        """The last byte was written: without a response it counts as arrived after the grace."""
        if not self._released:
            self._timer = asyncio.get_running_loop().call_later(self._grace, self.arrived)

    def arrived(self) -> None:
        """There is a response."""
        self._release(self._clock.monotonic())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release(self._clock.monotonic() if self._begun else None)

    def _release(self, arrived_at: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._released:
            self._released = True
            self._tracker.add(ReleasedSlot(self._permit, arrived_at))
