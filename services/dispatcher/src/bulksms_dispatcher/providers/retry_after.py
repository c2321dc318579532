"""Retry-After: seconds or an HTTP date, as the provider asks for a rest."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

__all__ = ["MAX_RETRY_AFTER", "parse_retry_after"]

MAX_RETRY_AFTER = timedelta(minutes=5)
"""A wrong value must not stop sending for good."""


def parse_retry_after(value: str, now: datetime) -> timedelta | None:
    """The rest asked for, at most MAX_RETRY_AFTER; None when the value is unreadable."""
    if value.isascii() and value.isdigit() and len(value) <= 9:
        return min(timedelta(seconds=int(value)), MAX_RETRY_AFTER)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max(moment - now, timedelta(0)), MAX_RETRY_AFTER)
