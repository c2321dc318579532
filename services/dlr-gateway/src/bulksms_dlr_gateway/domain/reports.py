"""A delivery report in our words."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum

import msgspec

__all__ = ["Report", "Status", "microseconds", "moment", "status_of"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Status(StrEnum):
    """What a report says, in our words; the provider's own word is kept beside it."""

    OTHER = "other"  # a word we do not know: kept raw, counted, not final
    SENT = "sent"  # on its way, not final
    DELIVERED = "delivered"
    FAILED = "failed"
    EXPIRED = "expired"


# Delivered and Failure are what today's API sends, Sent on the way; the others come from its older versions.
_STATUS_BY_WORD = {
    "sent": Status.SENT,
    "pending": Status.SENT,
    "queued": Status.SENT,
    "buffered": Status.SENT,
    "delivered": Status.DELIVERED,
    "failure": Status.FAILED,
    "failed": Status.FAILED,
    "undelivered": Status.FAILED,
    "rejected": Status.FAILED,
    "expired": Status.EXPIRED,
}


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """One report as it is forwarded. It holds no number and no text of a message."""

    provider_message_id: str
    """Opaque, case-sensitive, 1 to 64 printable characters."""
    status: Status
    raw_status: str
    """As the provider wrote it, at most 64 characters."""
    description: str = ""
    """At most 200 characters, runs of digits masked."""
    error_code: str = ""
    updated_at: int | None = None
    """When the provider says it changed: microseconds since 1970, UTC."""


def status_of(word: str) -> Status:
    """Our word for the provider's, whatever its case."""
    return _STATUS_BY_WORD.get(word.strip().lower(), Status.OTHER)


def microseconds(instant: datetime) -> int:
    """An aware datetime as microseconds since 1970, UTC."""
    return (instant - _EPOCH) // _MICROSECOND


def moment(value: int) -> datetime:
    """The reverse of `microseconds`."""
    return _EPOCH + value * _MICROSECOND
