"""Batches as workers see them: one provider request, leased under an epoch."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from bulksms_dispatcher.domain.account_holds import Probe
from bulksms_dispatcher.domain.protocol import BatchState
from servicekit.ids import derived_id

__all__ = [
    "NO_CAMPAIGN",
    "Attempt",
    "BatchKey",
    "BatchRecord",
    "Lane",
    "LeasedBatch",
    "Priority",
    "batch_id_of",
    "capture_id_of",
    "release_id_of",
]

NO_CAMPAIGN = UUID(int=0)
"""Stands where a single message has no campaign: row comparisons over lanes need a value."""

Priority = int
"""1 low, 2 normal, 3 urgent: the proto's numbers; the highest is claimed first."""

_BATCHES = UUID("6b9f0d0e-6d0c-5f8e-9a54-0b6b1d2b4a01")
_CAPTURES = UUID("6b9f0d0e-6d0c-5f8e-9a54-0b6b1d2b4a02")
_RELEASES = UUID("6b9f0d0e-6d0c-5f8e-9a54-0b6b1d2b4a03")


def batch_id_of(tenant_id: str, submission_id: UUID, number: int) -> UUID:
    """The id of a submission's batch: a repeat of the stream finds the same one."""
    return derived_id(_BATCHES, tenant_id, submission_id, number)


def capture_id_of(attempt_id: UUID, part: int = 0) -> UUID:
    """The ledger's request id for an accepted attempt, or for a late `part` of it: it is captured once."""
    return derived_id(_CAPTURES, attempt_id, part)


def release_id_of(attempt_id: UUID) -> UUID:
    """The ledger's request id for credits of an attempt whose outcome nobody will learn."""
    return derived_id(_RELEASES, attempt_id)


@dataclass(frozen=True, slots=True)
class BatchKey:
    """A batch under one epoch and attempt: what a write names, to change nothing once the batch has moved on."""

    tenant_id: str
    batch_id: UUID
    epoch: int
    attempt_id: UUID | None = None
    """Of its worker's attempt: an armed batch is changed by who armed it; None before it is armed."""

    def parameters(self) -> dict[str, object]:
        """As statements name them."""
        return {
            "tenant_id": self.tenant_id,
            "batch_id": self.batch_id,
            "epoch": self.epoch,
            "attempt_id": self.attempt_id,
        }


@dataclass(frozen=True, slots=True, order=True)
class Lane:
    """What claims rotate over: the READY batches of one campaign at one priority."""

    priority: Priority
    tenant_id: str
    campaign_id: UUID


@dataclass(frozen=True, slots=True)
class LeasedBatch:
    """A claimed batch with all that is needed to send it."""

    batch_id: UUID
    tenant_id: str
    campaign_id: UUID
    submission_id: UUID
    number: int
    enqueue_number: int
    epoch: int
    attempts: int
    retries: int
    recipients: int
    first_phone: int
    last_phone: int
    packed: bytes
    text: str
    sender: str
    variable_names: tuple[str, ...]
    reservation_id: UUID
    traceparent: str
    """Of the enqueue: the batch's span is its child."""
    snapshot_digest: bytes
    """Of who stands at which index of the submission."""
    waited_seconds: float
    """From when the batch could be claimed to when it was."""
    attempt_id: UUID | None = None
    """Drawn by its worker before it arms."""
    reason: str = ""
    """Why it went back into the queue the last time."""
    probe: Probe | None = None
    """The leave to be sent although its account is held."""

    @property
    def key(self) -> BatchKey:
        """What names it in a write."""
        return BatchKey(self.tenant_id, self.batch_id, self.epoch, self.attempt_id)

    @property
    def is_single_message(self) -> bool:
        """True when it goes through `Messages/send` and nobody but us keeps its status."""
        return self.campaign_id == NO_CAMPAIGN


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A batch as operators see it."""

    seq: int
    batch_id: UUID
    tenant_id: str
    campaign_id: UUID
    submission_id: UUID
    number: int
    recipients: int
    state: BatchState
    priority: Priority
    epoch: int
    attempts: int
    not_before: datetime
    bulk_id: str
    reason: str
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt to send a batch."""

    number: int
    epoch: int
    worker: str
    armed_at: datetime | None
    ended_at: datetime | None
    outcome: str
    reason: str
    http_status: int
