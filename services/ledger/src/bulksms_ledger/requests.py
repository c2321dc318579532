"""Requests: what the contract's messages ask for, as operations; `checking` says what is wrong with them."""

from __future__ import annotations

from typing import Final

from bulksms.ledger.v1 import ledger_pb2 as pb
from bulksms_ledger.accounts import SubscriptionStatus
from bulksms_ledger.checking import ID_MAX, REFERENCE_MAX, UNITS_MAX, Checker
from bulksms_ledger.entries import Evidence
from bulksms_ledger.operations import (
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
from bulksms_ledger.reservations import ReservationState

CAPTURES_MAX: Final = 1_000


def create_account(request: pb.CreateAccountRequest) -> CreateAccount:
    """The operation asked for."""
    check = Checker()
    return check.finish(CreateAccount(check.uuid("request_id", request.request_id), check.tenant_id(request.tenant_id)))


def set_subscription(request: pb.SetSubscriptionRequest) -> SetSubscription:
    """The operation asked for."""
    check = Checker()
    status = _STATUSES.get(request.status)
    if status is None:
        check.refuse("status", "must be ACTIVE, SUSPENDED or CANCELLED")
    return check.finish(
        SetSubscription(
            check.uuid("request_id", request.request_id),
            check.tenant_id(request.tenant_id),
            status or SubscriptionStatus.CANCELLED,
            check.instant("active_until", request.active_until) if request.HasField("active_until") else None,
            check.required_text("reason", request.reason),
        )
    )


def grant_credits(request: pb.GrantCreditsRequest) -> GrantCredits:
    """The operation asked for."""
    check = Checker()
    return check.finish(
        GrantCredits(
            check.uuid("request_id", request.request_id),
            check.tenant_id(request.tenant_id),
            check.units(request.units),
            check.text("source_ref", request.source_ref, REFERENCE_MAX),
            check.instant("expires_at", request.expires_at) if request.HasField("expires_at") else None,
            check.text("reason", request.reason),
        )
    )


def adjust_credits(request: pb.AdjustCreditsRequest) -> AdjustCredits:
    """The operation asked for."""
    check = Checker()
    if request.units == 0 or abs(request.units) > UNITS_MAX:
        check.refuse("units", f"must not be 0, and be between -{UNITS_MAX} and {UNITS_MAX}")
    return check.finish(
        AdjustCredits(
            check.uuid("request_id", request.request_id),
            check.tenant_id(request.tenant_id),
            request.units,
            check.required_text("reason", request.reason),
        )
    )


def reserve(request: pb.ReserveRequest) -> Reserve:
    """The operation asked for."""
    check = Checker()
    return check.finish(
        Reserve(
            check.uuid("request_id", request.request_id),
            check.tenant_id(request.tenant_id),
            check.uuid("reservation_id", request.reservation_id),
            check.units(request.units),
            check.text("campaign_id", request.campaign_id, ID_MAX),
        )
    )


def capture(request: pb.CaptureRequest) -> Capture:
    """The operation asked for."""
    check = Checker()
    return check.finish(
        Capture(
            check.uuid("request_id", request.request_id),
            check.tenant_id(request.tenant_id),
            check.uuid("reservation_id", request.reservation_id),
            check.units(request.units),
            _evidence(check, request.evidence) if request.HasField("evidence") else None,
        )
    )


def release(request: pb.ReleaseRequest) -> Release:
    """The operation asked for."""
    check = Checker()
    return check.finish(
        Release(
            check.uuid("request_id", request.request_id),
            check.tenant_id(request.tenant_id),
            check.uuid("reservation_id", request.reservation_id),
            check.units(request.units),
            check.text("reason", request.reason),
        )
    )


def close(request: pb.CloseRequest) -> Close:
    """The operation asked for."""
    check = Checker()
    return check.finish(
        Close(
            check.uuid("request_id", request.request_id),
            check.tenant_id(request.tenant_id),
            check.uuid("reservation_id", request.reservation_id),
            check.count("expected_captured", request.expected_captured),
        )
    )


def refund(request: pb.RefundRequest) -> Refund:
    """The operation asked for."""
    check = Checker()
    return check.finish(
        Refund(
            check.uuid("request_id", request.request_id),
            check.tenant_id(request.tenant_id),
            check.uuid("reservation_id", request.reservation_id),
            check.units(request.units),
            check.required_text("reason", request.reason),
        )
    )


def tenant(tenant_id: str) -> str:
    """The tenant id of a request that names nothing else to check."""
    check = Checker()
    return check.finish(check.tenant_id(tenant_id))


def reservation_state(check: Checker, state: int) -> ReservationState | None:
    """The state a listing is limited to; None for all."""
    if state and state not in _STATES:
        check.refuse("state", "must be OPEN, CLOSED or unspecified for all")
    return _STATES.get(state)


def _evidence(check: Checker, evidence: pb.CaptureEvidence) -> Evidence:
    return Evidence(
        check.text("evidence.batch_id", evidence.batch_id, ID_MAX),
        check.count("evidence.epoch", evidence.epoch),
        check.text("evidence.bulk_id", evidence.bulk_id, ID_MAX),
        check.count("evidence.accepted_count", evidence.accepted_count),
        check.count("evidence.parts", evidence.parts),
    )


_STATES: Final = {int(state): state for state in ReservationState}
_STATUSES: Final = {int(status): status for status in SubscriptionStatus}
