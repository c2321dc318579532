"""When a report that was not taken is offered again, and when to stop."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from bulksms_dlr_gateway.domain.entries import Entry
from servicekit.backoff import Backoff

__all__ = ["RetrySchedule"]

_MICROSECOND = timedelta(microseconds=1)
_BACKOFF = Backoff(timedelta(seconds=0.5), longest=timedelta(seconds=30))


@dataclass(frozen=True, slots=True)
class RetrySchedule:
    """For reports of messages that campaign does not know, which is usual when they outran the batch's result."""

    backoff: Backoff = _BACKOFF
    evidence_after: timedelta = timedelta(seconds=5)
    """From then on the dispatcher is asked too: campaign never learns of single messages."""
    horizon: timedelta = timedelta(minutes=10)
    """What was waited for so long, between one reply and the next, is given up when nobody knows it."""

    def due_after(self, attempts: int) -> timedelta:
        """The pause after the `attempts`-th time (from 1) that nobody took it."""
        return self.backoff.after(attempts)

    def asks_dispatcher(self, entry: Entry, now: int) -> bool:
        """Has campaign had its chance? `now` in microseconds since 1970."""
        return entry.unknown_since is not None and (now - entry.unknown_since) * _MICROSECOND >= self.evidence_after

    def is_over(self, attempts: int) -> bool:
        """Have the pauses between `attempts` replies reached the horizon?

        The time by the clock would not do: after an hour without campaign, reports reach it before the results they
        belong to, and must be waited for like any others.
        """
        waited = timedelta(0)
        for attempt in range(1, attempts):
            waited += self.due_after(attempt)
            if waited >= self.horizon:
                return True
        return False
