"""When a broken watch is begun anew, and when it is given up."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from bulksms_client.errors import BulkSmsError, DeadlineExceeded

__all__ = ["Reconnection"]

# Not servicekit's backoff: the client is installed by other backends, which need nothing of our processes.
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0


class Reconnection:
    """Jittered, doubling pauses, until nothing was heard for `patience_seconds`."""

    def __init__(
        self,
        patience_seconds: float,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._patience_seconds = patience_seconds
        self._monotonic = monotonic
        self._uniform = uniform
        self.progressed()

    def progressed(self) -> None:
        """Something was heard: patience and pauses begin anew."""
        self._give_up_at = self._monotonic() + self._patience_seconds
        self._next_pause = FIRST_PAUSE_SECONDS

    def pause(self, error: BulkSmsError | None) -> float:
        """Seconds to wait before the next attempt. Raises `error` when another one is useless or too late.

        None: the stream ended early but politely. A stream's own deadline is no failure: it only bounds how long
        one may live.
        """
        if isinstance(error, DeadlineExceeded):
            self.progressed()
            return 0.0
        pause = self._next_pause * self._uniform(0.5, 1.0)
        self._next_pause = min(self._next_pause * 2, LONGEST_PAUSE_SECONDS)
        if error is not None:
            if not error.retryable or self._monotonic() + pause > self._give_up_at:
                raise error
            if error.retry_after is not None:
                pause = max(pause, error.retry_after.total_seconds())
        return pause
