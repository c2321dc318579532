"""Authorizations: what the ledger is asked before the first byte, and what follows when it refuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from bulksms_dispatcher.domain.batch_outcomes import AttemptResult, BatchOutcome, Return
from bulksms_dispatcher.domain.batches import LeasedBatch
from bulksms_dispatcher.domain.index_ranges import IndexRange, from_ranges, to_ranges
from bulksms_dispatcher.domain.protocol import BatchState, OutcomeKind
from bulksms_dispatcher.domain.recipients import unpack
from bulksms_dispatcher.domain.results import RecipientOutcome, whole
from bulksms_dispatcher.domain.verdicts import positions_asked

__all__ = [
    "SENT_EARLIER",
    "Authorization",
    "AuthorizationRefusal",
    "Division",
    "Void",
    "authorization_of",
    "consequence_of",
    "void_of",
]

NOT_AUTHORIZED = "NOT_AUTHORIZED"
SENT_EARLIER = "SENT_EARLIER"


# A tenant who may not send now may pay tomorrow: until then his batches wait and say so.
_SUBSCRIPTION_RECHECK = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Authorization:
    """One attempt that asks to be allowed to send; `ranges` are its recipients' indexes within the submission."""

    tenant_id: str
    reservation_id: UUID
    attempt_id: UUID
    campaign_id: UUID
    enqueue_number: int
    snapshot_digest: bytes
    ranges: Sequence[IndexRange]
    units: int


@dataclass(frozen=True, slots=True)
class AuthorizationRefusal:
    """Why an attempt may not send; the ranges are those of its recipients that an earlier attempt was allowed."""

    reason: str
    captured: Sequence[IndexRange] = ()
    unresolved: Sequence[IndexRange] = ()


@dataclass(frozen=True, slots=True)
class Void:
    """An authorization to be taken back: all of it, or, with `ranges`, that of recipients the provider refused."""

    tenant_id: str
    reservation_id: UUID
    attempt_id: UUID
    ranges: Sequence[IndexRange] = ()
    units: int = 0


@dataclass(frozen=True, slots=True)
class Division:
    """A batch goes back in two parts; positions within it."""

    kept: Sequence[int]
    others: Sequence[int]


def authorization_of(batch: LeasedBatch, opted_out_positions: Sequence[int]) -> Authorization:
    """What is asked for a batch without those who have opted out; a message costs one credit (CREDIT_UNIT=message)."""
    if batch.attempt_id is None:
        raise ValueError("a batch is authorized after it was armed")
    indexes = unpack(batch.packed).indexes
    asked = [indexes[position] for position in positions_asked(batch.recipients, opted_out_positions)]
    return Authorization(
        batch.tenant_id,
        batch.reservation_id,
        batch.attempt_id,
        batch.submission_id if batch.is_single_message else batch.campaign_id,
        batch.enqueue_number,
        batch.snapshot_digest,
        to_ranges(asked),
        len(asked),
    )


def consequence_of(
    refusal: AuthorizationRefusal, batch: LeasedBatch, opted_out_positions: Sequence[int]
) -> BatchOutcome | Division | Return:
    """What becomes of an armed batch whose attempt was refused: nothing of it was sent by this attempt."""
    match refusal.reason:
        case "POSITIONS_TAKEN":
            return _taken(refusal, batch, opted_out_positions)
        case "SUBSCRIPTION_INACTIVE":
            return Return(_SUBSCRIPTION_RECHECK, refusal.reason)
        case "ATTEMPT_ENDED" | "NO_RESULT":
            return Return()  # the reaper was first, or nothing was decided
        case _:
            return BatchOutcome(
                BatchState.REJECTED,
                whole(
                    RecipientOutcome.FAILED,
                    opted_out_positions,
                    reason=NOT_AUTHORIZED,
                    description=f"The ledger does not allow it: {refusal.reason}",
                ),
                attempt=AttemptResult(OutcomeKind.NOT_SENT, NOT_AUTHORIZED),
                reason=NOT_AUTHORIZED,
            )


def _taken(
    refusal: AuthorizationRefusal, batch: LeasedBatch, opted_out_positions: Sequence[int]
) -> BatchOutcome | Division:
    """An earlier attempt was allowed some of them: unresolved, or accepted for certain; the others go on by themselves.

    The database was set back, or they were cut or submitted again. Those unresolved come first: what is left of the
    batch is then of one kind, and the batch of the others meets the rest of it.
    """
    recipients, opted_out = unpack(batch.packed), frozenset(opted_out_positions)
    unresolved = set(from_ranges(refusal.unresolved))
    kept = unresolved or set(from_ranges(refusal.captured))
    others = [
        position for position, index in enumerate(recipients.indexes) if index not in kept and position not in opted_out
    ]
    if others:
        away = frozenset(others)
        return Division([position for position in range(batch.recipients) if position not in away], others)
    outcome = RecipientOutcome.AMBIGUOUS if unresolved else RecipientOutcome.ACCEPTED
    return BatchOutcome(
        BatchState.AMBIGUOUS if unresolved else BatchState.ACCEPTED,
        whole(outcome, opted_out_positions, reason=SENT_EARLIER if unresolved else ""),
        attempt=AttemptResult(OutcomeKind.NOT_SENT, SENT_EARLIER),
        reason=SENT_EARLIER,
    )


def void_of(batch: LeasedBatch, positions: Sequence[int] | None = None) -> Void:
    """All of the batch's attempt, or these positions of the batch only."""
    if batch.attempt_id is None:
        raise ValueError("a batch that was never armed has no authorization")
    ranges: Sequence[IndexRange] = ()
    if positions is not None:
        indexes = unpack(batch.packed).indexes
        ranges = to_ranges(sorted(indexes[position] for position in positions))
    return Void(batch.tenant_id, batch.reservation_id, batch.attempt_id, ranges, len(positions or ()))
