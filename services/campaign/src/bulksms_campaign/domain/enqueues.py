"""Enqueues: each start of a campaign's sending, or of sending again to those that failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import NamedTuple
from uuid import UUID


class EnqueueKey(NamedTuple):
    """Whose enqueue of which campaign, and the day it was launched on: what the keys of its recipients begin with."""

    tenant_id: str
    campaign_id: UUID
    number: int
    launched_on: date


@dataclass(frozen=True, slots=True, kw_only=True)
class EnqueueRecord:
    """An enqueue as stored, without its counters."""

    key: EnqueueKey
    reservation_id: UUID
    enqueued_at: datetime
    traceparent: str
    snapshot_at: datetime | None = None
    snapshot_digest: bytes | None = None
    """Says which phone stands at which position; there since the snapshot."""
    submitted_at: datetime | None = None

    @property
    def trace_id(self) -> str:
        """Its trace: 32 hex digits, empty when it is unknown."""
        return self.traceparent.split("-")[1] if self.traceparent else ""


class Chunk(NamedTuple):
    """Consecutive recipients of an enqueue, from a position on, and their variables' values, phone by phone."""

    first_position: int
    phones: Sequence[int]
    values: Sequence[str]
