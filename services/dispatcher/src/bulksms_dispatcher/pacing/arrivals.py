"""Arrivals: every permit in use is followed to its end, and Redis is told from when its place counts."""

from __future__ import annotations

import asyncio
from collections import deque
from datetime import timedelta
from types import TracebackType
from typing import Self

from bulksms_dispatcher.metrics import Metrics
from bulksms_dispatcher.pacing.limiter import Limiter, PacingUnavailable
from bulksms_dispatcher.pacing.permits import Permit, Settled
from servicekit import logs
from servicekit.clock import Clock, SystemClock

__all__ = ["Arrivals", "Journey"]

_AT_ONCE = 200
# Far more than a process has under way; beyond it the oldest are left to their permits' own end.
_WAITING = 10_000
_log = logs.get_logger("bulksms.dispatcher.pacing")


class Arrivals:
    """A component: tells Redis what became of permits, all that have come together with one question.

    Not being able to is no harm: a place that is never settled counts until its permit's end, and a window more.
    `margin`: so long after its last byte was written a request that is not answered counts as arrived. What is answered
    sooner has arrived for certain; of slower ones it bounds how much later than others they may come to be counted.
    """

    name = "arrivals"

    def __init__(
        self,
        limiter: Limiter,
        margin: timedelta,
        metrics: Metrics,
        *,
        clock: Clock = SystemClock(),  # noqa: B008 - has no state
    ) -> None:
        self._limiter = limiter
        self._margin = margin.total_seconds()
        self._metrics = metrics
        self._clock = clock
        self._waiting: deque[Settled] = deque(maxlen=_WAITING)
        self._woken = asyncio.Event()
        self._stopping = False

    def follow(self, permit: Permit) -> Journey:
        """Use a permit: `with arrivals.follow(permit) as journey`."""
        return Journey(permit, self, self._margin, self._clock)

    def note(self, settled: Settled) -> None:
        """Redis is told soon."""
        if settled.permit.keys:
            self._waiting.append(settled)
            self._woken.set()

    def note_expired(self) -> None:
        """A permit was too old when its request was to begin."""
        self._metrics.pacing_expired.add(1)

    async def start(self) -> None:
        """Nothing to prepare."""

    async def run(self) -> None:
        """Tell until stopped; what was noted before is told still."""
        while self._waiting or not self._stopping:
            self._woken.clear()
            if not self._waiting:
                await self._woken.wait()
                continue
            told = [self._waiting.popleft() for _ in range(min(len(self._waiting), _AT_ONCE))]
            try:
                await self._limiter.settle(told)
            except PacingUnavailable:
                _log.warning("places left to their permits' end: Redis does not answer", places=len(told))

    async def stop(self) -> None:
        """Tell what is noted, then end."""
        self._stopping = True
        self._woken.set()


class Journey:
    """One request from its permit to the provider; leaving the block settles the permit if nothing has before."""

    def __init__(self, permit: Permit, arrivals: Arrivals, margin_seconds: float, clock: Clock) -> None:
        self._permit = permit
        self._arrivals = arrivals
        self._margin = margin_seconds
        self._clock = clock
        self._begun = False
        self._settled = False
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
            self._arrivals.note_expired()
        return self._begun

    def written(self) -> None:
        """The last byte was written: without an answer it counts as arrived a margin later."""
        if not self._settled:
            self._timer = asyncio.get_running_loop().call_later(self._margin, self.arrived)

    def arrived(self) -> None:
        """It was answered."""
        self._settle(self._clock.monotonic())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._settle(self._clock.monotonic() if self._begun else None)

    def _settle(self, arrived_at: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._settled:
            self._settled = True
            self._arrivals.note(Settled(self._permit, arrived_at))
