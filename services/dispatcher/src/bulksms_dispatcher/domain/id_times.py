"""Id times: a ULID says when it was made, so one that was made at another time was made for another message."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

__all__ = ["are_made_between"]

_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's, which stand in the order of their values
_LENGTH = 26
_TIME_DIGITS = 10


def are_made_between(message_ids: Sequence[str], earliest: datetime, latest: datetime) -> bool:
    """True when all of them are ULIDs of that time: they stand in the order of their times, so two tell of all."""
    if any(length != _LENGTH for length in set(map(len, message_ids))):
        return False
    first, last = min(message_ids, default=""), max(message_ids, default="")
    return not message_ids or (_digits_of(earliest) <= first and last[:_TIME_DIGITS] <= _digits_of(latest))


def _digits_of(moment: datetime) -> str:
    milliseconds = int(moment.timestamp() * 1000)
    return "".join(_DIGITS[milliseconds >> 5 * place & 31] for place in reversed(range(_TIME_DIGITS)))
