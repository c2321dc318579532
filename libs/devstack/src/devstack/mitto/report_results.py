"""What became of the delivery reports that were sent."""

from __future__ import annotations

import time
from collections import Counter, deque

import msgspec

from devstack.mitto.webhook import Post

MAX_UNACKNOWLEDGED = 10_000


class Unacknowledged(msgspec.Struct, frozen=True):
    """A post that was not acknowledged in its last attempt."""

    at: float
    message_ids: tuple[str, ...]
    statuses: tuple[str, ...]
    http_status: int | None
    failure: str | None
    attempts: int


class ReportResults:
    """Counters of reports, and the latest that the webhook did not take."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.by_http_status: Counter[str] = Counter()
        self.unacknowledged: deque[Unacknowledged] = deque(maxlen=MAX_UNACKNOWLEDGED)

    def clear(self) -> None:
        """Count from zero."""
        self.counts.clear()
        self.by_http_status.clear()
        self.unacknowledged.clear()

    def record(self, post: Post, *, again: bool) -> bool:
        """Count an ended post. With `again` one that was not acknowledged is made ready for a retry: then True."""
        reports = len(post.message_ids)
        self.counts["posts"] += 1
        self.counts["sent"] += reports
        if post.status is not None:
            self.by_http_status[str(post.status)] += 1
        if post.acknowledged:
            self.counts["acknowledged"] += reports
            return False
        if again:
            self.counts["retried"] += reports
            post.status = post.failure = None
            return True
        self.counts["failed"] += reports
        self.unacknowledged.append(
            Unacknowledged(time.time(), post.message_ids, post.statuses, post.status, post.failure, post.attempts)
        )
        return False
