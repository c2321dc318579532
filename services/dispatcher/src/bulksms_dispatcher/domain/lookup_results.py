"""Lookup results: what the provider says of one message it was asked about; read leniently."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, IntEnum

import msgspec

from bulksms_dispatcher.domain.provider_records import ProviderRecord, read_provider_record
from servicekit.privacy import clean_text

__all__ = ["DeliveryStatus", "LookupOutcome", "LookupResult", "read_response"]

_MAX_RAW_STATUS, _MAX_DESCRIPTION = 64, 200


class DeliveryStatus(IntEnum):
    """A delivery status; the numbers are those of the campaign contract's DeliveryStatus."""

    OTHER = 0
    SENT = 1
    DELIVERED = 2
    FAILED = 3
    EXPIRED = 4

    @property
    def is_final(self) -> bool:
        """True when it does not change any more."""
        return self in (DeliveryStatus.DELIVERED, DeliveryStatus.FAILED, DeliveryStatus.EXPIRED)


# As in the gateway: today's API, then the words of its older versions.
_STATUS_BY_WORD = {
    "sent": DeliveryStatus.SENT,
    "pending": DeliveryStatus.SENT,
    "queued": DeliveryStatus.SENT,
    "buffered": DeliveryStatus.SENT,
    "delivered": DeliveryStatus.DELIVERED,
    "failure": DeliveryStatus.FAILED,
    "failed": DeliveryStatus.FAILED,
    "undelivered": DeliveryStatus.FAILED,
    "rejected": DeliveryStatus.FAILED,
    "expired": DeliveryStatus.EXPIRED,
}


class LookupOutcome(Enum):
    """What came of asking."""

    KNOWN = "the provider has the message"
    NOT_FOUND = "the provider does not know the id"
    TOO_FAST = "429: ask later"
    REFUSED = "401 or 403: key, allow-list or account"
    UNREADABLE = "2xx and no message of this id"
    FAILED = "no response, or an error: nothing was learnt"
    NOT_ASKED = "its permit was too old"


@dataclass(frozen=True, slots=True)
class LookupResult:
    """What was learnt; `raw_status` and `description` are short, printable and without numbers of telephones."""

    outcome: LookupOutcome
    status: DeliveryStatus = DeliveryStatus.OTHER
    raw_status: str = ""
    description: str = ""
    retry_after: timedelta | None = None
    provider_record: ProviderRecord | None = None
    """The message itself; None where the response lacks what it takes to know one by."""


def read_response(body: bytes, message_id: str) -> LookupResult:
    """What a 2xx says of a message; never raises."""
    try:
        parsed = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        parsed = None
    # Another message's status must not be taken for this one's.
    if not isinstance(parsed, dict) or parsed.get("messageId") not in (message_id, None):
        return LookupResult(LookupOutcome.UNREADABLE)
    status = parsed.get("deliveryStatus") if parsed.get("deliveryStatus") is not None else parsed.get("status")
    raw = status if isinstance(status, str) else ""
    description = parsed.get("description")
    return LookupResult(
        LookupOutcome.KNOWN,
        _STATUS_BY_WORD.get(raw.strip().lower(), DeliveryStatus.OTHER),
        clean_text(raw, _MAX_RAW_STATUS),
        clean_text(description, _MAX_DESCRIPTION) if isinstance(description, str) else "",
        provider_record=read_provider_record(parsed, message_id),
    )
