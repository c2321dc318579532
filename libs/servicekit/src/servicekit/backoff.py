"""How long to wait before something is tried again: doubling pauses, bounded, jittered where replicas must not meet."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

__all__ = ["Backoff"]

# No pause without a bound of its own grows further: 2^30 times a second is 34 years, and a timedelta still holds it.
_MAX_DOUBLINGS = 30


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses after failures in a row: `first`, then twice as long each time, at most `longest`."""

    first: timedelta
    longest: timedelta = timedelta.max
    spread: float = 0.0
    """How far jitter moves a pause: 0.25 makes it up to a quarter shorter or longer."""

    def after(self, failures: int) -> timedelta:
        """The pause after so many failures in a row, the first being 1."""
        return min(self.first * (1 << min(failures - 1, _MAX_DOUBLINGS)), self.longest)

    def jittered(self, failures: int, randomness: float) -> timedelta:
        """The same, moved by jitter: `randomness` from 0 (shortest) to 1 (longest), as `Random.random()` gives it."""
        return self.after(failures) * (1 - self.spread + 2 * self.spread * randomness)
