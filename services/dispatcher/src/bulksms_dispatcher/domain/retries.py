"""When a batch that provably was not sent is attempted again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from servicekit.backoff import Backoff

__all__ = ["RetryPolicy"]

_BACKOFF = Backoff(timedelta(seconds=3))


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """`max_retries` retries after the first attempt, with the pauses of `backoff` before them.

    With 5 and 3 s: 3, 6, 12, 24, 48 s, and all five happen.
    """

    max_retries: int = 5
    backoff: Backoff = _BACKOFF

    def delay(self, retries_made: int, at_least: timedelta | None = None) -> timedelta | None:
        """How long to wait before the next retry; None when there is none left.

        `at_least` is what the provider asked for (Retry-After): the longer of the two counts.
        """
        if retries_made >= self.max_retries:
            return None
        own = self.backoff.after(retries_made + 1)
        return own if at_least is None else max(own, at_least)
