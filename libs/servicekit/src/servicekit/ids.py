"""Ids: ordered by time where rows are inserted, derived where a repeat must find the same one."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from random import Random

from servicekit.clock import Clock

__all__ = ["derived_id", "uuid7"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def uuid7(clock: Clock, random: Random) -> uuid.UUID:
    """A version 7 UUID (RFC 9562, method 3): milliseconds, then the fraction of one, then 62 random bits.

    Sorted, they are in the order of creation to about a microsecond, so B-tree inserts go to the right edge.
    """
    milliseconds, microseconds = divmod((clock.now() - _EPOCH) // _MICROSECOND, 1000)
    fraction = microseconds * 4096 // 1000
    value = milliseconds << 80 | 0x7 << 76 | fraction << 64 | 0b10 << 62 | random.getrandbits(62)
    return uuid.UUID(int=value)


def derived_id(namespace: uuid.UUID, *parts: object) -> uuid.UUID:
    """The same version 5 UUID for the same parts, for ever; parts are kept apart, so ("a", "bc") ≠ ("ab", "c")."""
    texts = [str(part) for part in parts]
    return uuid.uuid5(namespace, "".join(f"{len(text)}:{text}" for text in texts))
