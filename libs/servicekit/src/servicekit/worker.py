"""A loop that does a bit of work again and again, survives its failures, and can be notified that there is work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from random import Random

from opentelemetry import metrics

from servicekit import logs
from servicekit.backoff import Backoff
from servicekit.errors import DomainError
from servicekit.waiting import is_set_within

__all__ = ["PeriodicWorker"]

_log = logs.get_logger("bulksms.servicekit.worker")
_FIRST_PAUSE = timedelta(milliseconds=200)
_SPREAD = 0.25  # keeps replicas apart


class PeriodicWorker:
    """A component that calls `body` every `interval`, at once when notified or when `body` returned True (more is due).

    With `linger` a notification is answered so much later, by one round for all that came meanwhile.

    An exception is logged, counted and followed by a growing pause up to `max_pause`; it never ends the loop. `stop`
    lets the body in progress finish; who stops the component bounds how long, and cancels it then.
    """

    def __init__(
        self,
        name: str,
        interval: timedelta,
        body: Callable[[], Awaitable[bool | None]],
        *,
        linger: timedelta = timedelta(0),
        body_timeout: timedelta | None = timedelta(minutes=5),
        max_pause: timedelta = timedelta(seconds=15),
        random: Random | None = None,
    ) -> None:
        self.name = name
        self._interval = interval.total_seconds()
        self._linger = linger.total_seconds()
        self._body = body
        self._body_timeout = body_timeout.total_seconds() if body_timeout else None
        self._backoff = Backoff(_FIRST_PAUSE, longest=max_pause, spread=_SPREAD)
        self._random = random or Random()  # noqa: S311 - for jitter
        self._notified = asyncio.Event()
        self._stopped = asyncio.Event()
        self._failures = 0
        self._failure_counter = metrics.get_meter("bulksms.servicekit.worker").create_counter(
            "worker.failures", description="Rounds of a worker that ended in an exception"
        )

    def notify(self) -> None:
        """There is work: run a round as soon as the present one, if any, is over."""
        self._notified.set()

    async def start(self) -> None:
        """Nothing to prepare; the work is done in `run`."""

    async def run(self) -> None:
        """Loop until stopped."""
        while not self._stopped.is_set():
            self._notified.clear()
            await self._round()

    async def stop(self) -> None:
        """Begin no further round."""
        self._stopped.set()
        self._notified.set()

    async def _round(self) -> None:
        try:
            async with asyncio.timeout(self._body_timeout):
                more = await self._body()
        except Exception as error:  # noqa: BLE001 - the loop's boundary
            # A notification does not shorten this pause, or a fault that lasts would keep the loop spinning.
            await is_set_within(self._stopped, self._pause_after(error))
            return
        self._failures = 0
        if more:
            # A body that never really waits would keep the loop from everything else.
            await asyncio.sleep(0)
        else:
            await is_set_within(self._notified, self._interval)
            if self._notified.is_set() and self._linger:
                await is_set_within(self._stopped, self._linger)

    def _pause_after(self, error: Exception) -> float:
        self._failures += 1
        self._failure_counter.add(1, {"worker": self.name})
        pause = self._backoff.jittered(self._failures, self._random.random()).total_seconds()
        _log.error(
            "worker failed and goes on",
            worker=self.name,
            failures_in_a_row=self._failures,
            error_type=type(error).__qualname__,
            error=str(error),
            pause_seconds=round(pause, 1),
            # A known error explains itself; repeated every few seconds its traceback only fills the disk.
            exc_info=None if isinstance(error, DomainError) else error,
        )
        return pause
