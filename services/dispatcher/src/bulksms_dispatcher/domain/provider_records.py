"""Provider records: what the provider says of a message whose id nobody knows; read leniently, believed only whole."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

__all__ = ["ProviderRecord", "read_provider_record", "text_digest"]

_DESTINATION = re.compile(r"(?:\+|00)?([1-9][0-9]{6,14})")
# `2026-11-22T10:00:00.1234567Z`: PostgreSQL and Python know six fractional digits, Mitto writes seven.
_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(\.\d{1,6})?\d*(Z|[+-]\d\d:?\d\d)?")

_LONGEST_SENDER = 64
_YEARS = range(2000, 2200)
"""Any other is no time a message was sent, and cannot be reckoned with."""


@dataclass(frozen=True, slots=True)
class ProviderRecord:
    """A message as the provider has it."""

    destination: int
    texts: frozenset[bytes]
    """Digests of `text` and `requestInfo.sms.text`: the provider may keep what it was asked for beside what it sent."""
    created_at: datetime
    sender: str | None = None
    """As the provider was asked for it (`requestInfo.sms.sender`); None when it does not say."""


def text_digest(text: str) -> bytes:
    """By which texts are compared and kept."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def read_provider_record(parsed: Any, message_id: str) -> ProviderRecord | None:
    """What a decoded response says of a message; never raises.

    None unless it is about this message and has exactly one destination, a text and a time.
    """
    if _at(parsed, "messageId") not in (message_id, None):
        return None
    destinations = {number for value in _destinations(parsed) if (number := _number(value)) is not None}
    said = (_at(parsed, "text"), _at(parsed, "requestInfo", "sms", "text"))
    texts = frozenset(text_digest(text) for text in said if isinstance(text, str) and text)
    created_at = _time(_at(parsed, "createdAt"))
    if len(destinations) != 1 or not texts or created_at is None:
        return None
    sender = _at(parsed, "requestInfo", "sms", "sender")
    is_said = isinstance(sender, str) and 0 < len(sender) <= _LONGEST_SENDER and sender.isprintable()
    return ProviderRecord(destinations.pop(), texts, created_at, sender if is_said else None)


def _destinations(parsed: Any) -> Iterator[Any]:
    """Where clients have found it; the sender is a participant's name elsewhere, never here."""
    yield _at(parsed, "destination")
    yield _at(parsed, "requestInfo", "destination")
    participants = _at(parsed, "conversation", "participants")
    if isinstance(participants, list):
        for participant in participants:
            yield _at(participant, "messagingAppIdentifier")


def _at(parsed: Any, *names: str) -> Any:
    for name in names:
        if not isinstance(parsed, dict):
            return None
        parsed = parsed.get(name)
    return parsed


def _number(value: Any) -> int | None:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str):
        return None
    found = _DESTINATION.fullmatch(text.strip())
    return int(found[1]) if found else None


def _time(value: Any) -> datetime | None:
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return None
    day, clock, fraction, zone = found.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}{fraction or ''}{(zone or 'Z').replace('Z', '+00:00')}")
        moment = moment.astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    return moment if moment.year in _YEARS else None
