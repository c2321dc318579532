"""Events: what happens to a campaign, as its history has it."""

from __future__ import annotations

from enum import IntEnum


class EventKind(IntEnum):
    """What happened; numbered as in the contract and in the table."""

    CREATED = 1
    UPDATED = 2
    SCHEDULED = 3
    ENQUEUED = 4
    SNAPSHOT_TAKEN = 5
    SUBMITTED = 6
    PAUSED = 7
    RESUMED = 8
    CANCEL_REQUESTED = 9
    SENT = 10
    FAILED = 11
    CANCELLED = 12
    RESERVATION_CLOSED = 13
    ENQUEUE_REFUSED = 14
    CLOSE_REFUSED = 15
    HOLD_BEGAN = 16
    HOLD_ENDED = 17
