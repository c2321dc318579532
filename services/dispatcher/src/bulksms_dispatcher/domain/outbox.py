"""Outbox entries: results that other services must receive."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from uuid import UUID

from bulksms_dispatcher.domain.protocol import BatchState

__all__ = ["OutboxEntry", "OutboxKind"]


class OutboxKind(IntEnum):
    """Whom an entry is for."""

    CAMPAIGN = 1
    CAPTURE = 2
    MESSAGE_CREDIT = 3
    """A single message's credit: captured when it was accepted, then its reservation is closed."""


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """One result to deliver, with what is needed to deliver it."""

    outbox_id: int
    kind: OutboxKind
    batch_id: UUID
    epoch: int
    attempt_id: UUID | None
    """What it says came of this attempt; None where nothing was armed."""
    state: BatchState
    attempts: int
    accepted: int
    accepted_indexes: bytes | None
    """Who was accepted, where that is not everybody who was not refused."""
    released: int
    """Credits of those of whom nobody will learn whether they were sent."""
    parts: int
    bulk_id: str
    traceparent: str
    tenant_id: str
    campaign_id: UUID
    reservation_id: UUID
    enqueue_number: int
    part: int
    """0: all recipients of the batch; else some of them, that evidence has named."""
    first_phone: int
    last_phone: int
    groups: bytes | None = None
    packed: bytes | None = None
    message_ids: bytes | None = None
