"""Domain refusals: every reason an operation is turned down for, and what the caller can change."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final
from uuid import UUID

import msgspec

from bulksms_ledger.domain.accounts import Account, Subscription, SubscriptionStatus
from bulksms_ledger.domain.positions import Positions


class RefusalReason(StrEnum):
    """Machine reasons, as the contract names them."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    ACCOUNT_NOT_FOUND = "ACCOUNT_NOT_FOUND"
    RESERVATION_NOT_FOUND = "RESERVATION_NOT_FOUND"
    RESERVATION_EXISTS = "RESERVATION_EXISTS"
    RESERVATION_STATE = "RESERVATION_STATE"
    RESERVATION_EXCEEDED = "RESERVATION_EXCEEDED"
    REFUND_EXCEEDED = "REFUND_EXCEEDED"
    CAPTURED_MISMATCH = "CAPTURED_MISMATCH"
    INSUFFICIENT_CREDITS = "INSUFFICIENT_CREDITS"
    SUBSCRIPTION_INACTIVE = "SUBSCRIPTION_INACTIVE"
    SOURCE_REF_USED = "SOURCE_REF_USED"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    SNAPSHOT_MISMATCH = "SNAPSHOT_MISMATCH"
    POSITIONS_TAKEN = "POSITIONS_TAKEN"
    ATTEMPT_ENDED = "ATTEMPT_ENDED"
    ATTEMPT_CAPTURED = "ATTEMPT_CAPTURED"
    ATTEMPT_NOT_FOUND = "ATTEMPT_NOT_FOUND"


class DomainRefusal(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag_field="outcome", tag="refusal"):
    """An operation turned down: why, in words that say what to change, and the figures behind it."""

    reason: RefusalReason
    message: str
    metadata: dict[str, str] = {}
    field: str = ""  # of an invalid argument
    captured: Positions = ()  # of POSITIONS_TAKEN: those that were sent to for certain
    unresolved: Positions = ()  # and those that may have been

    @property
    def is_kept(self) -> bool:
        """True when it is the request id's answer for ever; else the same id may be tried again."""
        return self.reason not in _NOT_KEPT


# No account, no session to keep it in; the others are about the request itself, not a decision on the account. An
# attempt that is not known may be told later, after a restore.
_NOT_KEPT: Final = frozenset(
    {
        RefusalReason.INVALID_ARGUMENT,
        RefusalReason.ACCOUNT_NOT_FOUND,
        RefusalReason.REQUEST_ID_REUSED,
        RefusalReason.ATTEMPT_NOT_FOUND,
    }
)


def invalid_argument(field: str, message: str) -> DomainRefusal:
    """A field that only turns out wrong when it is looked at beside the account or the clock."""
    return DomainRefusal(RefusalReason.INVALID_ARGUMENT, message, field=field)


def account_not_found(tenant_id: str) -> DomainRefusal:
    """The tenant has no account."""
    message = f"Tenant {tenant_id} has no account: open one with CreateAccount, or correct tenant_id."
    return DomainRefusal(RefusalReason.ACCOUNT_NOT_FOUND, message, {"tenant_id": tenant_id})


def reservation_not_found(tenant_id: str, reservation_id: UUID) -> DomainRefusal:
    """The account has no such reservation."""
    message = f"Tenant {tenant_id} has no reservation {reservation_id}: reserve first, or correct reservation_id."
    metadata = {"tenant_id": tenant_id, "reservation_id": str(reservation_id)}
    return DomainRefusal(RefusalReason.RESERVATION_NOT_FOUND, message, metadata)


def reservation_exists(reservation_id: UUID) -> DomainRefusal:
    """Another request made a reservation of this id."""
    message = (
        f"Reservation {reservation_id} was made by another request: "
        "repeat that one with its own request_id, or choose a new reservation_id."
    )
    return DomainRefusal(RefusalReason.RESERVATION_EXISTS, message, {"reservation_id": str(reservation_id)})


def reservation_closed(reservation_id: UUID) -> DomainRefusal:
    """The reservation has ended; nothing is reserved any more."""
    message = f"Reservation {reservation_id} is closed, nothing is reserved by it any more: reserve anew."
    metadata = {"reservation_id": str(reservation_id), "state": "CLOSED"}
    return DomainRefusal(RefusalReason.RESERVATION_STATE, message, metadata)


def reservation_exceeded(units: int, open_units: int) -> DomainRefusal:
    """More than is still open."""
    message = f"{_credits(open_units)} still open in the reservation, {units} asked for: ask for at most {open_units}."
    metadata = {"required": str(units), "open": str(open_units)}
    return DomainRefusal(RefusalReason.RESERVATION_EXCEEDED, message, metadata)


def attempt_exceeded(units: int, authorized: int) -> DomainRefusal:
    """More than is still authorized."""
    message = (
        f"{_credits(authorized)} still authorized for the attempt, {units} asked for: ask for at most {authorized}."
    )
    metadata = {"required": str(units), "authorized": str(authorized)}
    return DomainRefusal(RefusalReason.RESERVATION_EXCEEDED, message, metadata)


def snapshot_mismatch(reservation_id: UUID) -> DomainRefusal:
    """Positions counted in another snapshot are other people."""
    message = (
        f"The positions of reservation {reservation_id} were counted in another snapshot: "
        "send nothing, and enqueue anew under another reservation."
    )
    return DomainRefusal(RefusalReason.SNAPSHOT_MISMATCH, message, {"reservation_id": str(reservation_id)})


def positions_taken(captured: Positions, unresolved: Positions) -> DomainRefusal:
    """Earlier attempts hold some of the positions."""
    message = (
        f"{_people(captured)} been sent to already and {_people(unresolved)} perhaps been sent to "
        "by an earlier attempt: send to neither."
    )
    return DomainRefusal(RefusalReason.POSITIONS_TAKEN, message, captured=captured, unresolved=unresolved)


def attempt_ended(attempt_id: UUID) -> DomainRefusal:
    """Nothing is authorized for it any more."""
    message = f"Attempt {attempt_id} is void, withdrawn or captured, in whole or for these positions: draw a new one."
    return DomainRefusal(RefusalReason.ATTEMPT_ENDED, message, {"attempt_id": str(attempt_id)})


def attempt_captured(attempt_id: UUID) -> DomainRefusal:
    """What the provider accepted cannot be taken back."""
    message = f"Attempt {attempt_id} is captured, in whole or for some of these positions: they cannot be void."
    return DomainRefusal(RefusalReason.ATTEMPT_CAPTURED, message, {"attempt_id": str(attempt_id)})


def attempt_not_found(attempt_id: UUID) -> DomainRefusal:
    """It was never authorized."""
    message = f"Attempt {attempt_id} of this reservation was never authorized: correct attempt_id."
    return DomainRefusal(RefusalReason.ATTEMPT_NOT_FOUND, message, {"attempt_id": str(attempt_id)})


def attempt_reused(attempt_id: UUID) -> DomainRefusal:
    """The attempt is authorized for something else."""
    message = f"Attempt {attempt_id} is authorized for other positions, units or another snapshot: draw a new one."
    return DomainRefusal(RefusalReason.REQUEST_ID_REUSED, message, {"attempt_id": str(attempt_id)})


def refund_exceeded(units: int, refundable: int) -> DomainRefusal:
    """More than was captured and not refunded yet."""
    message = f"{_credits(refundable)} captured and not refunded yet, {units} asked for: refund at most {refundable}."
    return DomainRefusal(
        RefusalReason.REFUND_EXCEEDED, message, {"required": str(units), "refundable": str(refundable)}
    )


def captured_mismatch(expected: int, captured: int) -> DomainRefusal:
    """The caller and the ledger count differently."""
    message = (
        f"The caller counts {expected} captured credits, the ledger {captured}: wait for captures under way or "
        "correct expected_captured, then close with a new request_id."
    )
    metadata = {"expected": str(expected), "captured": str(captured)}
    return DomainRefusal(RefusalReason.CAPTURED_MISMATCH, message, metadata)


def insufficient_credits(required: int, available: int) -> DomainRefusal:
    """More than the account has."""
    message = (
        f"{_credits(available)} available, {required} needed: grant {required - available} more or ask for fewer, "
        "then try with a new request_id."
    )
    metadata = {"required": str(required), "available": str(available)}
    return DomainRefusal(RefusalReason.INSUFFICIENT_CREDITS, message, metadata)


def subscription_inactive(account: Account) -> DomainRefusal:
    """The tenant may not send."""
    tenant_id = account.tenant_id
    cure = "set an active one with SetSubscription, then try with a new request_id."
    message = f"Tenant {tenant_id} {_subscription_state(account.subscription)}: {cure}"
    return DomainRefusal(RefusalReason.SUBSCRIPTION_INACTIVE, message, {"tenant_id": tenant_id})


def source_ref_used(source_ref: str) -> DomainRefusal:
    """The purchase has been granted under another request id."""
    message = f"source_ref {source_ref!r} has been granted already, by another request: nothing is left to do."
    return DomainRefusal(RefusalReason.SOURCE_REF_USED, message, {"source_ref": source_ref})


def request_id_reused(request_id: UUID, differs: Sequence[str]) -> DomainRefusal:
    """The request id belongs to an operation of other content."""
    names = ", ".join(differs)
    message = f"request_id {request_id} belongs to another operation, which differs in {names}: use a new request_id."
    metadata = {"request_id": str(request_id), "differs": ",".join(differs)}
    return DomainRefusal(RefusalReason.REQUEST_ID_REUSED, message, metadata)


def _subscription_state(subscription: Subscription | None) -> str:
    if subscription is None:
        return "has no subscription"
    if subscription.status is not SubscriptionStatus.ACTIVE:
        return f"has a subscription that is {subscription.status.name}"
    ended = "" if subscription.active_until is None else subscription.active_until.isoformat(timespec="seconds")
    return f"has a subscription that ended at {ended}"


def _people(taken: Positions) -> str:
    count = sum(end - first for first, end in taken)
    return "1 recipient has" if count == 1 else f"{count} recipients have"


def _credits(units: int) -> str:
    return "1 credit is" if units == 1 else f"{units} credits are"
