"""Requests: what the contract's messages ask for, as operations, checked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bulksms.ledger.v1 import ledger_pb2 as pb
from bulksms_ledger.domain.accounts import SubscriptionStatus
from bulksms_ledger.domain.attempts import Authorize, Void, Withdraw
from bulksms_ledger.domain.entries import Evidence
from bulksms_ledger.domain.operations import (
    AdjustCredits,
    Capture,
    Close,
    CreateAccount,
    GrantCredits,
    Refund,
    Release,
    Reserve,
    SetSubscription,
)
from bulksms_ledger.domain.positions import NONE, POSITIONS_IN_RESERVATION, Positions
from servicekit.arguments import ArgumentCheck

BATCH_MAX: Final = 1_000
_UNITS_MAX: Final = 1_000_000_000
_COUNT_MAX: Final = 2**53  # larger ones are not the same number in every reader of a JSON statement
_TEXT_MAX: Final = 500
_REFERENCE_MAX: Final = 200
_ID_MAX: Final = 64
_DIGEST_MAX: Final = 64
_ENQUEUE_NUMBER_MAX: Final = 2**31 - 1
_RANGES_MAX: Final = 10_000  # of the largest batch


def create_account(request: pb.CreateAccountRequest) -> CreateAccount:
    """The operation asked for."""
    check = ArgumentCheck()
    return check.passed(CreateAccount(check.request_id(request.request_id), check.tenant_id(request.tenant_id)))


def set_subscription(request: pb.SetSubscriptionRequest) -> SetSubscription:
    """The operation asked for."""
    check = ArgumentCheck()
    status = check.required_enum("status", SubscriptionStatus, request.status)
    return check.passed(
        SetSubscription(
            check.request_id(request.request_id),
            check.tenant_id(request.tenant_id),
            status,
            check.instant("active_until", request.active_until) if request.HasField("active_until") else None,
            check.text("reason", request.reason, minimum=1, maximum=_TEXT_MAX),
        )
    )


def grant_credits(request: pb.GrantCreditsRequest) -> GrantCredits:
    """The operation asked for."""
    check = ArgumentCheck()
    return check.passed(
        GrantCredits(
            check.request_id(request.request_id),
            check.tenant_id(request.tenant_id),
            _units(check, request.units),
            check.text("source_ref", request.source_ref, maximum=_REFERENCE_MAX),
            check.instant("expires_at", request.expires_at) if request.HasField("expires_at") else None,
            check.text("reason", request.reason, maximum=_TEXT_MAX),
        )
    )


def adjust_credits(request: pb.AdjustCreditsRequest) -> AdjustCredits:
    """The operation asked for."""
    check = ArgumentCheck()
    if request.units == 0 or abs(request.units) > _UNITS_MAX:
        check.wrong("units", f"must not be 0, and be between -{_UNITS_MAX} and {_UNITS_MAX}")
    return check.passed(
        AdjustCredits(
            check.request_id(request.request_id),
            check.tenant_id(request.tenant_id),
            request.units,
            check.text("reason", request.reason, minimum=1, maximum=_TEXT_MAX),
        )
    )


def reserve(request: pb.ReserveRequest) -> Reserve:
    """The operation asked for."""
    check = ArgumentCheck()
    return check.passed(
        Reserve(
            check.request_id(request.request_id),
            check.tenant_id(request.tenant_id),
            check.uuid("reservation_id", request.reservation_id),
            _units(check, request.units),
            check.text("campaign_id", request.campaign_id, maximum=_ID_MAX),
            _enqueue_number(check, request.enqueue_number),
        )
    )


def capture(request: pb.CaptureRequest) -> Capture:
    """The operation asked for."""
    check = ArgumentCheck()
    return check.passed(
        Capture(
            check.request_id(request.request_id),
            check.tenant_id(request.tenant_id),
            check.uuid("reservation_id", request.reservation_id),
            _units(check, request.units),
            _evidence(check, request.evidence) if request.HasField("evidence") else None,
            check.optional_uuid("attempt_id", request.attempt_id),
            _attempts_positions(check, request),
        )
    )


def release(request: pb.ReleaseRequest) -> Release:
    """The operation asked for."""
    check = ArgumentCheck()
    return check.passed(
        Release(
            check.request_id(request.request_id),
            check.tenant_id(request.tenant_id),
            check.uuid("reservation_id", request.reservation_id),
            _units(check, request.units),
            check.text("reason", request.reason, maximum=_TEXT_MAX),
            check.optional_uuid("attempt_id", request.attempt_id),
        )
    )


def close(request: pb.CloseRequest) -> Close:
    """The operation asked for."""
    check = ArgumentCheck()
    return check.passed(
        Close(
            check.request_id(request.request_id),
            check.tenant_id(request.tenant_id),
            check.uuid("reservation_id", request.reservation_id),
            _expected_captured(check, request),
        )
    )


def refund(request: pb.RefundRequest) -> Refund:
    """The operation asked for."""
    check = ArgumentCheck()
    return check.passed(
        Refund(
            check.request_id(request.request_id),
            check.tenant_id(request.tenant_id),
            check.uuid("reservation_id", request.reservation_id),
            _units(check, request.units),
            check.text("reason", request.reason, minimum=1, maximum=_TEXT_MAX),
        )
    )


def authorize(request: pb.Authorization) -> Authorize:
    """The attempt that wants to send."""
    check = ArgumentCheck()
    if not 1 <= len(request.snapshot_digest) <= _DIGEST_MAX:
        check.wrong("snapshot_digest", f"must be 1 to {_DIGEST_MAX} bytes")
    if not request.positions:
        check.wrong("positions", "are required: the recipients of the request")
    return check.passed(
        Authorize(
            check.tenant_id(request.tenant_id),
            check.uuid("reservation_id", request.reservation_id),
            check.uuid("attempt_id", request.attempt_id),
            check.text("campaign_id", request.campaign_id, maximum=_ID_MAX),
            _enqueue_number(check, request.enqueue_number),
            request.snapshot_digest,
            _positions(check, request.positions),
            _units(check, request.units),
        )
    )


def withdraw(request: pb.AttemptRef) -> Withdraw:
    """The attempt whose worker is gone."""
    check = ArgumentCheck()
    return check.passed(
        Withdraw(
            check.tenant_id(request.tenant_id),
            check.uuid("reservation_id", request.reservation_id),
            check.uuid("attempt_id", request.attempt_id),
        )
    )


def void(request: pb.Void) -> Void:
    """The attempt that has not sent."""
    check = ArgumentCheck()
    least, most = (1, _UNITS_MAX) if request.positions else (0, 0)
    return check.passed(
        Void(
            check.tenant_id(request.tenant_id),
            check.uuid("reservation_id", request.reservation_id),
            check.uuid("attempt_id", request.attempt_id),
            _positions(check, request.positions),
            check.number("units", request.units, minimum=least, maximum=most),
        )
    )


def tenant(tenant_id: str) -> str:
    """The tenant id of a request that names nothing else to check."""
    check = ArgumentCheck()
    return check.passed(check.tenant_id(tenant_id))


def _units(check: ArgumentCheck, value: int) -> int:
    return check.number("units", value, minimum=1, maximum=_UNITS_MAX)


def _enqueue_number(check: ArgumentCheck, value: int) -> int:
    return check.number("enqueue_number", value, minimum=0, maximum=_ENQUEUE_NUMBER_MAX)


def _attempts_positions(check: ArgumentCheck, request: pb.CaptureRequest) -> Positions:
    if request.positions and not request.attempt_id:
        check.wrong("positions", "are those of an attempt: name it, too")
    return _positions(check, request.positions)


def _positions(check: ArgumentCheck, ranges: Sequence[pb.PositionRange]) -> Positions:
    if len(ranges) > _RANGES_MAX:
        check.wrong("positions", f"must be at most {_RANGES_MAX} ranges")
        return NONE
    behind_previous = -1
    for one in ranges:
        if not behind_previous < one.first <= one.last < POSITIONS_IN_RESERVATION:
            check.wrong(
                "positions",
                f"must be ascending ranges that do not touch, from 0 to {POSITIONS_IN_RESERVATION - 1}, first to last",
            )
            return NONE
        behind_previous = one.last + 1
    return tuple([(one.first, one.last + 1) for one in ranges])


def _expected_captured(check: ArgumentCheck, request: pb.CloseRequest) -> int:
    if not request.HasField("expected_captured"):
        check.wrong("expected_captured", "is required, 0 included: the captured credits as its caller counts them")
    return _count(check, "expected_captured", request.expected_captured)


def _count(check: ArgumentCheck, field: str, value: int) -> int:
    return check.number(field, value, minimum=0, maximum=_COUNT_MAX)


def _evidence(check: ArgumentCheck, evidence: pb.CaptureEvidence) -> Evidence:
    return Evidence(
        check.text("evidence.batch_id", evidence.batch_id, maximum=_ID_MAX),
        _count(check, "evidence.epoch", evidence.epoch),
        check.text("evidence.bulk_id", evidence.bulk_id, maximum=_ID_MAX),
        _count(check, "evidence.accepted_count", evidence.accepted_count),
        _count(check, "evidence.parts", evidence.parts),
    )
