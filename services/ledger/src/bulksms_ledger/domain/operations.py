"""Operations: what callers ask of an account, and the outcomes kept under their request ids for ever."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from bulksms_ledger.domain.accounts import Balance, Subscription, SubscriptionStatus
from bulksms_ledger.domain.attempts import AttemptOutcome, Authorize, Void, Withdraw
from bulksms_ledger.domain.entries import Entry, Evidence
from bulksms_ledger.domain.positions import Positions
from bulksms_ledger.domain.refusals import DomainRefusal
from bulksms_ledger.domain.reservations import Reservation


class Operation(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag_field="operation"):
    """One change asked for. Defaults are not encoded, so that a field added later leaves old content equal.

    Like all values here it cannot be part of a cycle, so the garbage collector need not look at it (`gc=False`): with
    thousands under way that is a fifth of a decision's time.
    """

    request_id: UUID
    tenant_id: str


class CreateAccount(Operation, frozen=True, gc=False, tag="CreateAccount"):
    """Open an account."""


class SetSubscription(Operation, frozen=True, gc=False, tag="SetSubscription"):
    """Set the subscription."""

    status: SubscriptionStatus
    active_until: datetime | None
    reason: str


class GrantCredits(Operation, frozen=True, gc=False, tag="GrantCredits"):
    """Bring a lot of credits in."""

    units: int
    source_ref: str = ""
    expires_at: datetime | None = None
    reason: str = ""


class AdjustCredits(Operation, frozen=True, gc=False, tag="AdjustCredits"):
    """Correct the balance, up or down."""

    units: int
    reason: str


class Reserve(Operation, frozen=True, gc=False, tag="Reserve"):
    """Set credits aside."""

    reservation_id: UUID
    units: int
    campaign_id: str = ""
    enqueue_number: int = 0


class Capture(Operation, frozen=True, gc=False, tag="Capture"):
    """Spend credits of a reservation: an attempt's, for some or all of its unresolved positions; or open ones."""

    reservation_id: UUID
    units: int
    evidence: Evidence | None = None
    attempt_id: UUID | None = None
    positions: Positions = ()


class Release(Operation, frozen=True, gc=False, tag="Release"):
    """Give credits of a reservation back: an attempt's, whose positions stay taken; or open ones."""

    reservation_id: UUID
    units: int
    reason: str = ""
    attempt_id: UUID | None = None


class Close(Operation, frozen=True, gc=False, tag="Close"):
    """End a reservation."""

    reservation_id: UUID
    expected_captured: int


class Refund(Operation, frozen=True, gc=False, tag="Refund"):
    """Give captured credits back."""

    reservation_id: UUID
    units: int
    reason: str


class ExpireLots(Operation, frozen=True, gc=False, tag="ExpireLots"):
    """Write off what is available of lots that have expired; asked for by the expiry worker only."""


class OperationResult(msgspec.Struct, frozen=True, gc=False, omit_defaults=True, tag_field="outcome", tag="result"):
    """What an operation came to that was carried out: the parts its response has."""

    balance: Balance | None = None
    reservation: Reservation | None = None
    entry: Entry | None = None
    subscription: Subscription | None = None


Outcome = OperationResult | DomainRefusal
AnyOperation = (
    CreateAccount
    | SetSubscription
    | GrantCredits
    | AdjustCredits
    | Reserve
    | Capture
    | Release
    | Close
    | Refund
    | ExpireLots
)


Request = AnyOperation | Authorize | Withdraw | Void
"""What may be asked of one account."""


class Decision(msgspec.Struct, frozen=True, gc=False):
    """The outcome of one request, and whether it is that of an earlier one with the same id."""

    outcome: Outcome | AttemptOutcome
    replayed: bool


class RecordedOperation(msgspec.Struct, frozen=True, gc=False):
    """An operation as it is kept, to tell a repeat from a reuse of its request id, and its outcome."""

    operation: AnyOperation
    outcome: Outcome
    entry_version: int = 0  # of a capture carried out: the version of its entry, which holds all that was asked for


def encode_content(operation: Operation) -> str:
    """The operation as it is stored."""
    return _encode(operation).decode()


def encode_outcome(outcome: Outcome) -> str:
    """The outcome as it is stored."""
    return _encode(outcome).decode()


def differing_fields(operation: Operation, other: Operation) -> list[str]:
    """Names of the fields in which two operations differ, sorted."""
    first: dict[str, Any] = msgspec.to_builtins(operation)
    second: dict[str, Any] = msgspec.to_builtins(other)
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


_encode: Final = msgspec.json.Encoder().encode
