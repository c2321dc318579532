"""Single messages: what is asked for, what became of it, and the ids derived from the request."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from uuid import UUID

import msgspec

from servicekit.ids import derived_id

__all__ = [
    "DeliveryEvidence",
    "Message",
    "MessageClass",
    "MessageReference",
    "MessageStatus",
    "fingerprint_of",
    "fold_evidence",
    "message_id_of",
    "reservation_id_of",
]

_MESSAGES = UUID("6b9f0d0e-6d0c-5f8e-9a54-0b6b1d2b4a03")
MAX_TEXT = 1600


class MessageStatus(IntEnum):
    """The proto's numbers."""

    QUEUED = 1
    SENT = 2
    DELIVERED = 3
    FAILED = 4
    UNCONFIRMED = 5


class MessageClass(IntEnum):
    """What a message is to its recipient; the proto's numbers. Stored, and nothing is decided by it."""

    MARKETING = 1
    SERVICE = 2


@dataclass(frozen=True, slots=True)
class MessageReference:
    """What names a message: one of the three."""

    message_id: UUID | None = None
    external_id: str = ""
    provider_message_id: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """A single send."""

    message_id: UUID
    tenant_id: str
    phone: int
    sender: str
    parts: int
    external_id: str = ""
    """The caller's own id of it; empty when it has none."""
    message_class: MessageClass = MessageClass.SERVICE
    status: MessageStatus = MessageStatus.QUEUED
    reason: str = ""
    description: str = ""
    provider_message_id: str = ""
    created_at: datetime | None = None
    updated_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class DeliveryEvidence:
    """A delivery report the campaign service does not know."""

    provider_message_id: str
    status: MessageStatus
    raw_status: str
    description: str


def message_id_of(tenant_id: str, request_id: UUID) -> UUID:
    """The message a request is about: a repeat finds the same one."""
    return derived_id(_MESSAGES, tenant_id, request_id)


def reservation_id_of(message_id: UUID) -> UUID:
    """The reservation of its credit."""
    return derived_id(_MESSAGES, message_id, "reservation")


def fingerprint_of(message: Message, text: str) -> bytes:
    """The same for the same content, without disclosing it."""
    content = (message.phone, text, message.sender, message.external_id, message.message_class)
    return hashlib.sha256(msgspec.json.encode(content)).digest()


_RANK = {MessageStatus.DELIVERED: 3, MessageStatus.FAILED: 2, MessageStatus.SENT: 1}


def fold_evidence(reports: Iterable[DeliveryEvidence]) -> list[DeliveryEvidence]:
    """The most final report of each message id."""
    best: dict[str, DeliveryEvidence] = {}
    for report in reports:
        present = best.get(report.provider_message_id)
        if present is None or _RANK.get(report.status, 0) > _RANK.get(present.status, 0):
            best[report.provider_message_id] = report
    return list(best.values())
