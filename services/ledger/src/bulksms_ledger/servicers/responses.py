"""Responses: the domain's values as the contract's messages, and its refusals as errors."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from bulksms.ledger.v1 import ledger_pb2 as pb
from bulksms_ledger.domain.accounts import Account, Balance, Subscription
from bulksms_ledger.domain.attempts import AttemptOutcome, AttemptRequest
from bulksms_ledger.domain.entries import Entry, Evidence
from bulksms_ledger.domain.operations import Capture, Decision
from bulksms_ledger.domain.positions import Positions
from bulksms_ledger.domain.refusals import DomainRefusal, RefusalReason
from bulksms_ledger.domain.reservations import Reservation
from servicekit.arguments import invalid_field
from servicekit.errors import Category, DomainError

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def error(refusal: DomainRefusal) -> DomainError:
    """The error a refusal is answered with."""
    if refusal.reason is RefusalReason.INVALID_ARGUMENT:
        return invalid_field(refusal.field, refusal.message)
    return DomainError(_CATEGORIES[refusal.reason], refusal.reason.value, refusal.message, metadata=refusal.metadata)


def timestamp(at: datetime) -> Timestamp:
    """An instant as the contract has it."""
    seconds, microseconds = divmod((at - _EPOCH) // _MICROSECOND, 1_000_000)
    return Timestamp(seconds=seconds, nanos=microseconds * 1000)


def optional_timestamp(at: datetime | None) -> Timestamp | None:
    """An instant, or unset."""
    return None if at is None else timestamp(at)


def subscription(value: Subscription) -> pb.Subscription:
    """A subscription."""
    return pb.Subscription(
        status=pb.SubscriptionStatus.ValueType(int(value.status)),
        active_until=optional_timestamp(value.active_until),
        reason=value.reason,
        updated_at=timestamp(value.updated_at),
    )


def balance(value: Balance) -> pb.Balance:
    """A balance."""
    return pb.Balance(
        available=value.available,
        reserved=value.reserved,
        captured=value.captured,
        granted=value.granted,
        version=value.version,
        as_of=timestamp(value.as_of),
    )


def account(value: Account, now: datetime) -> pb.Account:
    """An account with its balance now."""
    return pb.Account(
        tenant_id=value.tenant_id,
        subscription=None if value.subscription is None else subscription(value.subscription),
        balance=balance(value.balance(now)),
        created_at=timestamp(value.created_at),
    )


def reservation(value: Reservation) -> pb.Reservation:
    """A reservation."""
    return pb.Reservation(
        reservation_id=str(value.reservation_id),
        tenant_id=value.tenant_id,
        campaign_id=value.campaign_id,
        state=pb.ReservationState.ValueType(int(value.state)),
        units=value.units,
        open=value.open,
        captured=value.captured,
        released=value.released,
        refunded=value.refunded,
        created_at=timestamp(value.created_at),
        closed_at=optional_timestamp(value.closed_at),
        authorized=value.authorized,
        enqueue_number=value.enqueue_number,
    )


def entry(value: Entry) -> pb.Entry:
    """An entry."""
    return pb.Entry(
        version=value.version,
        tenant_id=value.tenant_id,
        kind=pb.EntryKind.ValueType(int(value.kind)),
        units=value.units,
        available_after=value.available_after,
        reserved_after=value.reserved_after,
        captured_after=value.captured_after,
        reservation_id="" if value.reservation_id is None else str(value.reservation_id),
        campaign_id=value.campaign_id,
        request_id=str(value.request_id),
        reason=value.reason,
        evidence=None if value.evidence is None else _evidence(value.evidence),
        created_at=timestamp(value.created_at),
        hash=value.hash,
        source_ref=value.source_ref,
        expires_at=optional_timestamp(value.expires_at),
    )


def capture_result(operation: Capture, decision: Decision) -> pb.CaptureResult:
    """What became of one capture of a batch."""
    request_id, outcome = str(operation.request_id), decision.outcome
    if not isinstance(outcome, DomainRefusal):
        return pb.CaptureResult(request_id=request_id, captured=_CAPTURED, replayed=decision.replayed)
    refusal = pb.CaptureRefusal(reason=_reason(outcome.reason), message=outcome.message)
    return pb.CaptureResult(request_id=request_id, refusal=refusal, replayed=decision.replayed)


def invalid_capture(capture: pb.CaptureRequest, error: DomainError) -> pb.CaptureResult:
    """One capture of a batch that is not even an operation."""
    refusal = pb.CaptureRefusal(reason=_reason(RefusalReason.INVALID_ARGUMENT), message=error.message)
    return pb.CaptureResult(request_id=capture.request_id, refusal=refusal)


def authorization_result(asked: AttemptRequest, decision: Decision) -> pb.AuthorizationResult:
    """Whether one attempt of a batch may send."""
    if isinstance(decision.outcome, DomainRefusal):
        return pb.AuthorizationResult(attempt_id=str(asked.attempt_id), refusal=_refusal(decision.outcome))
    return pb.AuthorizationResult(attempt_id=str(asked.attempt_id), authorized=_AUTHORIZED)


def withdraw_result(asked: AttemptRequest, decision: Decision) -> pb.WithdrawResult:
    """Whether one attempt of a batch may have been sent."""
    attempt_id, outcome = str(asked.attempt_id), decision.outcome
    if isinstance(outcome, DomainRefusal):
        return pb.WithdrawResult(attempt_id=attempt_id, refusal=_refusal(outcome))
    if outcome is AttemptOutcome.AUTHORIZED:
        return pb.WithdrawResult(attempt_id=attempt_id, authorized=_AUTHORIZED)
    return pb.WithdrawResult(attempt_id=attempt_id, withdrawn=_WITHDRAWN)


def void_result(asked: AttemptRequest, decision: Decision) -> pb.VoidResult:
    """What became of one void of a batch."""
    if isinstance(decision.outcome, DomainRefusal):
        return pb.VoidResult(attempt_id=str(asked.attempt_id), refusal=_refusal(decision.outcome))
    return pb.VoidResult(attempt_id=str(asked.attempt_id), voided=_VOIDED)


def invalid_attempt(error: DomainError) -> pb.AuthorizationRefusal:
    """One attempt of a batch that is named wrongly."""
    return pb.AuthorizationRefusal(reason=_reason(RefusalReason.INVALID_ARGUMENT), message=error.message)


def _refusal(refusal: DomainRefusal) -> pb.AuthorizationRefusal:
    return pb.AuthorizationRefusal(
        reason=_reason(refusal.reason),
        message=refusal.message,
        captured=_ranges(refusal.captured),
        unresolved=_ranges(refusal.unresolved),
    )


def _ranges(positions: Positions) -> list[pb.PositionRange]:
    return [pb.PositionRange(first=first, last=end - 1) for first, end in positions]


def _reason(reason: RefusalReason) -> pb.RefusalReason.ValueType:
    return pb.RefusalReason.Value(f"REFUSAL_REASON_{reason.value}")


def _evidence(value: Evidence) -> pb.CaptureEvidence:
    return pb.CaptureEvidence(
        batch_id=value.batch_id,
        epoch=value.epoch,
        bulk_id=value.bulk_id,
        accepted_count=value.accepted_count,
        parts=value.parts,
    )


_CAPTURED: Final = pb.Captured()
_AUTHORIZED: Final = pb.Authorized()
_WITHDRAWN: Final = pb.Withdrawn()
_VOIDED: Final = pb.Voided()
_CATEGORIES: Final = {
    RefusalReason.ACCOUNT_NOT_FOUND: Category.NOT_FOUND,
    RefusalReason.RESERVATION_NOT_FOUND: Category.NOT_FOUND,
    RefusalReason.RESERVATION_EXISTS: Category.ALREADY_EXISTS,
    RefusalReason.RESERVATION_STATE: Category.WRONG_STATE,
    RefusalReason.RESERVATION_EXCEEDED: Category.WRONG_STATE,
    RefusalReason.REFUND_EXCEEDED: Category.WRONG_STATE,
    RefusalReason.CAPTURED_MISMATCH: Category.WRONG_STATE,
    RefusalReason.INSUFFICIENT_CREDITS: Category.PAYMENT_REQUIRED,
    RefusalReason.SUBSCRIPTION_INACTIVE: Category.FORBIDDEN,
    RefusalReason.SOURCE_REF_USED: Category.ALREADY_EXISTS,
    RefusalReason.REQUEST_ID_REUSED: Category.ALREADY_EXISTS,
    RefusalReason.ATTEMPT_ENDED: Category.WRONG_STATE,
    RefusalReason.ATTEMPT_NOT_FOUND: Category.NOT_FOUND,
}
