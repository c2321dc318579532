"""The gate: closed while Redis is away, because without it nobody knows what the other replicas send."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from bulksms_dispatcher.metrics import Metrics
from bulksms_dispatcher.pacing.limiter import Limiter, PacingUnavailable
from servicekit import logs
from servicekit.clock import Clock

__all__ = ["PacingGate"]

_log = logs.get_logger("bulksms.dispatcher.pacing")


class PacingGate:
    """Open at first; closed by whoever finds Redis away, opened again by `watch_once` when it answers."""

    poll_seconds = 1.0

    def __init__(self, limiter: Limiter, metrics: Metrics, clock: Clock, on_open: Callable[[], None]) -> None:
        self._limiter = limiter
        self._metrics = metrics
        self._clock = clock
        self._on_open = on_open
        self._open = True
        self._closed_at: datetime | None = None
        metrics.pacing_available.set(1)

    @property
    def is_open(self) -> bool:
        """May batches be claimed?"""
        return self._open

    @property
    def closed_at(self) -> datetime | None:
        """Since when it is closed; None while it is open."""
        return self._closed_at

    def close(self) -> None:
        """Sending stops, and says so."""
        if self._open:
            self._open = False
            self._closed_at = self._clock.now()
            self._metrics.pacing_available.set(0)
            _log.error("sending stopped: Redis does not answer", cure="check REDIS_URL and the server behind it")

    async def watch_once(self) -> None:
        """One round of the worker that asks Redis whether it is there."""
        try:
            await self._limiter.ping()
        except PacingUnavailable:
            self.close()
            return
        if not self._open:
            self._open = True
            self._closed_at = None
            self._metrics.pacing_available.set(1)
            _log.info("sending goes on: Redis answers again")
            self._on_open()
