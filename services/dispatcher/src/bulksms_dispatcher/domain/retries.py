"""When a batch that provably was not sent is tried again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

__all__ = ["Backoff"]


@dataclass(frozen=True, slots=True)
class Backoff:
    """`attempts` retries after the first try, the first after `first`, each later one after twice as long.

    With 5 and 3 s: 3, 6, 12, 24, 48 s, and all five happen.
    """

    attempts: int = 5
    first: timedelta = timedelta(seconds=3)

    def delay(self, retries_made: int, at_least: timedelta | None = None) -> timedelta | None:
        """How long to wait before the next retry; None when there is none left.

        `at_least` is what the provider asked for (Retry-After): the longer of the two counts.
        """
        if retries_made >= self.attempts:
            return None
        own = self.first * (1 << retries_made)
        return own if at_least is None else max(own, at_least)
