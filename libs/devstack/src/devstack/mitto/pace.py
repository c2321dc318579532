"""A rate for reports: a token bucket."""

from __future__ import annotations


class Pace:
    """Allows so many posts per second; a rate of 0 allows all."""

    def __init__(self, per_second: int, now: float) -> None:
        self._rate = per_second
        # Bursts of a twentieth of a second: the event loop's timers are no finer than a millisecond.
        self._burst = max(1.0, per_second / 20)
        self._tokens = 0.0
        self._at = now

    def wait_seconds(self, now: float) -> float:
        """How long until the next post is allowed; 0 for at once."""
        if not self._rate:
            return 0.0
        self._tokens = min(self._tokens + (now - self._at) * self._rate, self._burst)
        self._at = now
        return 0.0 if self._tokens >= 1 else (1 - self._tokens) / self._rate

    def take(self) -> None:
        """One post was sent."""
        self._tokens -= 1
