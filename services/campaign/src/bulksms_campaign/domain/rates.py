"""Rates: how fast recipients are being processed, from two samples kept with the counters."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

SAMPLE_EVERY = timedelta(seconds=2)
"""How old the newer sample gets before it becomes the older one."""

IDLE_AFTER = timedelta(seconds=10)
"""Without a change for this long nothing is being processed."""


@dataclass(frozen=True, slots=True)
class Sample:
    """So many recipients were processed at that time."""

    at: datetime
    processed: int


@dataclass(frozen=True, slots=True)
class RateSamples:
    """The last few seconds of a campaign."""

    earlier: Sample | None
    later: Sample | None
    changed_at: datetime | None

    def rate_per_second(self, now: datetime, processed: int) -> float:
        """Recipients processed per second over the last few seconds; 0 when idle or unknown."""
        if self.earlier is None or self.changed_at is None or now - self.changed_at > IDLE_AFTER:
            return 0.0
        seconds = (now - self.earlier.at).total_seconds()
        return max(processed - self.earlier.processed, 0) / seconds if seconds > 0.05 else 0.0


def time_remaining(waiting: int, rate_per_second: float) -> timedelta | None:
    """How long until nothing waits, at this rate; None when unknown."""
    if waiting == 0:
        return timedelta(0)
    return timedelta(seconds=waiting / rate_per_second) if rate_per_second > 0 else None
