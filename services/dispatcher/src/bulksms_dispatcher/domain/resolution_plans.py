"""Resolution plans: what an operator's statement about many ambiguous batches would concern, and what it must not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from uuid import UUID

from bulksms_dispatcher.domain.batches import BatchKey

__all__ = [
    "MAX_BATCHES",
    "BatchSelection",
    "Exclusion",
    "ExclusionCount",
    "PlanCounts",
    "Resolution",
    "ResolutionPlan",
    "SelectedBatch",
    "exclusion_of",
]

MAX_BATCHES = 10_000
"""Of one plan; what is beyond is left for the next."""
# Until then its worker may only be frozen, and the provider's reports are still on their way.
_NOT_BEFORE = timedelta(hours=1)


class Resolution(Enum):
    """What an operator knows; the value is the kind of the operator action that is kept."""

    ACCEPTED = "RESOLVE_ACCEPTED"
    NOT_SENT = "RESOLVE_NOT_SENT"


class Exclusion(Enum):
    """Why a batch cannot be said not to have been sent."""

    TOO_RECENT = "its last attempt was less than an hour ago"
    EVIDENCE_OPEN = "a report that may be of it has not been looked into yet"
    PARTIAL_EVIDENCE = "some of its messages were sent: it can only be resolved as ACCEPTED"


@dataclass(frozen=True, slots=True)
class BatchSelection:
    """Ambiguous batches by what they have in common; what is None or empty does not narrow it."""

    tenant_id: str = ""
    campaign_id: UUID | None = None
    traffic_account_id: str = ""
    armed_from: datetime | None = None
    armed_until: datetime | None = None
    reason: str = ""
    http_status: int = 0

    @property
    def is_narrowed(self) -> bool:
        """True unless it means whatever is ambiguous."""
        window = self.armed_from is not None and self.armed_until is not None
        return bool(self.tenant_id or self.campaign_id or window)


@dataclass(frozen=True, slots=True)
class SelectedBatch:
    """One of the batches, as it is just now."""

    key: BatchKey
    recipients: int
    evidenced: int
    attempted_at: datetime
    is_evidence_open: bool


@dataclass(frozen=True, slots=True)
class ExclusionCount:
    """Batches that are left as they are, for one reason."""

    exclusion: Exclusion
    batches: int


@dataclass(frozen=True, slots=True)
class PlanCounts:
    """What a plan concerns."""

    batches: int
    recipients: int
    excluded: Sequence[ExclusionCount]
    has_more: bool
    """There are more than a plan may have."""


@dataclass(frozen=True, slots=True)
class ResolutionPlan:
    """Batches that one resolution is meant for; each only as long as it is what it was."""

    token: UUID
    resolution: Resolution
    batches: Sequence[BatchKey]


def exclusion_of(batch: SelectedBatch, resolution: Resolution, now: datetime) -> Exclusion | None:
    """Why the batch must not be resolved so; None when it may."""
    if resolution is Resolution.ACCEPTED:
        return None
    if batch.evidenced:
        return Exclusion.PARTIAL_EVIDENCE
    if now - batch.attempted_at < _NOT_BEFORE:
        return Exclusion.TOO_RECENT
    return Exclusion.EVIDENCE_OPEN if batch.is_evidence_open else None
