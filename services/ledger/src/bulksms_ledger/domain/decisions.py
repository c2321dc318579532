"""Decisions: `apply(state, operation, now) → (state, step)`, the rules of the ledger as one pure function."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import msgspec

from bulksms_ledger.domain import lots, refusals
from bulksms_ledger.domain.accounts import Account, Subscription
from bulksms_ledger.domain.authorizations import Authorization
from bulksms_ledger.domain.entries import Entry, EntryKind, Evidence
from bulksms_ledger.domain.lots import Lot, Lots
from bulksms_ledger.domain.operations import (
    AdjustCredits,
    Capture,
    Close,
    ExpireLots,
    GrantCredits,
    Operation,
    OperationResult,
    Outcome,
    Refund,
    Release,
    Reserve,
    SetSubscription,
)
from bulksms_ledger.domain.posting import enter
from bulksms_ledger.domain.refusals import DomainRefusal
from bulksms_ledger.domain.reservations import AllocatedReservation, Reservation, ReservationState


class State(msgspec.Struct, frozen=True, gc=False):
    """What a decision depends on."""

    account: Account
    lots: Lots
    allocated: AllocatedReservation | None = None  # of the reservation the operation names, if there is one
    source_refs: frozenset[str] = frozenset()  # those already granted, as far as the operation's is concerned
    authorization: Authorization | None = None  # of the attempt the operation names, if it was ever authorized


class Step(msgspec.Struct, frozen=True, gc=False):
    """What a decision leaves: the entries it wrote and its outcome."""

    entries: tuple[Entry, ...]
    outcome: Outcome


def apply(state: State, operation: Operation, now: datetime) -> tuple[State, Step]:
    """Decide one operation: the state after it, the entries it writes and what it answers.

    Lots that have expired are written off first, and again when the operation gave credits back to one. A refusal that
    is not kept changes nothing at all: its entries would name a request that is not on record. Time never runs
    backwards within an account, whatever the clocks of the replicas say.
    """
    at = instant(state.account, now)
    found = state
    state, before = _expire(state, operation, at)
    decided = _RULES[type(operation)](state, operation, at)
    if isinstance(decided, DomainRefusal):
        return (state, Step(before, decided)) if decided.is_kept else (found, Step((), decided))
    lots_before = state.lots
    state, entries, result = decided
    if before:
        entries = before + entries
    if state.lots is not lots_before:
        state, after = _expire(state, operation, at)
        if after:  # the balance in the result is the one after everything the operation led to
            entries += after
            result = msgspec.structs.replace(result, balance=state.account.balance(at) if result.balance else None)
    return state, Step(entries, result)


def instant(account: Account, now: datetime) -> datetime:
    """The time of a decision on the account."""
    last = account.last_entry_at
    return now if last is None or now > last else last


_Decided = tuple[State, tuple[Entry, ...], OperationResult] | DomainRefusal


def _set_subscription(state: State, operation: SetSubscription, at: datetime) -> _Decided:
    subscription = Subscription(operation.status, operation.active_until, operation.reason, at)
    account = msgspec.structs.replace(state.account, subscription=subscription)
    return msgspec.structs.replace(state, account=account), (), OperationResult(subscription=subscription)


def _grant(state: State, operation: GrantCredits, at: datetime) -> _Decided:
    if operation.source_ref and operation.source_ref in state.source_refs:
        return refusals.source_ref_used(operation.source_ref)
    if operation.expires_at is not None and operation.expires_at <= at:
        return refusals.invalid_argument("expires_at", "must be in the future; leave it unset for no expiry")
    account, entry = enter(
        state.account,
        operation,
        at,
        EntryKind.GRANT,
        operation.units,
        reason=operation.reason,
        source_ref=operation.source_ref,
        expires_at=operation.expires_at,
    )
    open_lots = lots.add(state.lots, Lot(entry.version, operation.expires_at, operation.units))
    source_refs = state.source_refs | {operation.source_ref} if operation.source_ref else state.source_refs
    result = OperationResult(entry=entry, balance=account.balance(at))
    return State(account, open_lots, None, source_refs), (entry,), result


def _adjust(state: State, operation: AdjustCredits, at: datetime) -> _Decided:
    taken = -operation.units
    if taken > state.account.available:
        return refusals.insufficient_credits(taken, state.account.available)
    account, entry = enter(state.account, operation, at, EntryKind.ADJUST, operation.units, reason=operation.reason)
    if taken > 0:
        open_lots, _ = lots.take(state.lots, taken)
    else:
        open_lots = lots.add(state.lots, Lot(entry.version, None, operation.units))
    result = OperationResult(entry=entry, balance=account.balance(at))
    return State(account, open_lots, None, state.source_refs), (entry,), result


def _reserve(state: State, operation: Reserve, at: datetime) -> _Decided:
    account, units = state.account, operation.units
    if state.allocated is not None:
        return refusals.reservation_exists(operation.reservation_id)
    if account.subscription is None or not account.subscription.is_active(at):
        return refusals.subscription_inactive(account)
    if units > account.available:
        return refusals.insufficient_credits(units, account.available)
    open_lots, allocations = lots.take(state.lots, units)
    account, entry = enter(
        account, operation, at, EntryKind.RESERVE, units, operation.reservation_id, operation.campaign_id
    )
    reservation = Reservation(
        reservation_id=operation.reservation_id,
        tenant_id=operation.tenant_id,
        campaign_id=operation.campaign_id,
        units=units,
        open=units,
        opened_version=entry.version,
        created_at=at,
        enqueue_number=operation.enqueue_number,
    )
    result = OperationResult(reservation=reservation, balance=account.balance(at))
    return (
        State(account, open_lots, AllocatedReservation(reservation, allocations), state.source_refs),
        (entry,),
        result,
    )


def _capture(state: State, operation: Capture, at: datetime) -> _Decided:
    allocated, units, authorization = state.allocated, operation.units, state.authorization
    if allocated is None:
        return refusals.reservation_not_found(operation.tenant_id, operation.reservation_id)
    if operation.attempt_id is None:
        refusal = _refuse_units(allocated.reservation, units)
        if refusal is not None:
            return refusal
        after = allocated.capture(units)
    elif authorization is None:
        return refusals.attempt_not_found(operation.attempt_id)
    else:
        captured = authorization.capture(operation.positions, units)
        if isinstance(captured, DomainRefusal):
            return captured
        authorization, after = captured, allocated.capture_authorized(units)
    account, entry = _enter_for(
        allocated.reservation, state, operation, at, EntryKind.CAPTURE, units, evidence=operation.evidence
    )
    state = State(account, state.lots, after, state.source_refs, authorization)
    return state, (entry,), OperationResult(None, after.reservation)


def _release(state: State, operation: Release, at: datetime) -> _Decided:
    allocated, units, authorization = state.allocated, operation.units, state.authorization
    if allocated is None:
        return refusals.reservation_not_found(operation.tenant_id, operation.reservation_id)
    if operation.attempt_id is None:
        refusal = _refuse_units(allocated.reservation, units)
        if refusal is not None:
            return refusal
        after, returned = allocated.release(units)
    elif authorization is None:
        return refusals.attempt_not_found(operation.attempt_id)
    else:
        released = authorization.release(units)
        if isinstance(released, DomainRefusal):
            return released
        authorization, (after, returned) = released, allocated.release_authorized(units)
    account, entry = _enter_for(
        allocated.reservation, state, operation, at, EntryKind.RELEASE, units, reason=operation.reason
    )
    state = State(account, lots.put_back(state.lots, returned), after, state.source_refs, authorization)
    return state, (entry,), OperationResult(reservation=after.reservation)


def _close(state: State, operation: Close, at: datetime) -> _Decided:
    allocated = state.allocated
    if allocated is None:
        return refusals.reservation_not_found(operation.tenant_id, operation.reservation_id)
    reservation = allocated.reservation
    if reservation.state is ReservationState.CLOSED:
        return refusals.reservation_closed(reservation.reservation_id)
    if reservation.captured != operation.expected_captured:
        return refusals.captured_mismatch(operation.expected_captured, reservation.captured)
    account, entry = _enter_for(reservation, state, operation, at, EntryKind.CLOSE, reservation.open)
    allocated, returned = allocated.close(at)
    state = State(account, lots.put_back(state.lots, returned), allocated, state.source_refs)
    return state, (entry,), OperationResult(reservation=allocated.reservation, balance=account.balance(at))


def _refund(state: State, operation: Refund, at: datetime) -> _Decided:
    allocated, units = state.allocated, operation.units
    if allocated is None:
        return refusals.reservation_not_found(operation.tenant_id, operation.reservation_id)
    reservation = allocated.reservation
    refundable = reservation.captured - reservation.refunded
    if units > refundable:
        return refusals.refund_exceeded(units, refundable)
    account, entry = _enter_for(reservation, state, operation, at, EntryKind.REFUND, units, reason=operation.reason)
    allocated, returned = allocated.refund(units)
    state = State(account, lots.put_back(state.lots, returned), allocated, state.source_refs)
    return state, (entry,), OperationResult(reservation=allocated.reservation, balance=account.balance(at))


def _expire_lots(state: State, operation: ExpireLots, at: datetime) -> _Decided:
    del operation, at  # apply has written off what is due already
    return state, (), OperationResult()


def _enter_for(
    reservation: Reservation,
    state: State,
    operation: Operation,
    at: datetime,
    kind: EntryKind,
    units: int,
    *,
    reason: str = "",
    evidence: Evidence | None = None,
) -> tuple[Account, Entry]:
    name, campaign_id = reservation.reservation_id, reservation.campaign_id
    return enter(state.account, operation, at, kind, units, name, campaign_id, reason=reason, evidence=evidence)


def _refuse_units(reservation: Reservation, units: int) -> DomainRefusal | None:
    if reservation.state is ReservationState.CLOSED:
        return refusals.reservation_closed(reservation.reservation_id)
    if units > reservation.open:
        return refusals.reservation_exceeded(units, reservation.open)
    return None


def _expire(state: State, operation: Operation, at: datetime) -> tuple[State, tuple[Entry, ...]]:
    """Write off lots past their end; they come first in the order, so mostly this is one look."""
    if not state.lots or not state.lots[0].has_expired(at):
        return state, ()
    account, entries = state.account, []
    due = [lot for lot in state.lots if lot.has_expired(at)]
    for lot in due:
        account, entry = enter(
            account, operation, at, EntryKind.EXPIRE, lot.available, reason=f"lot {lot.version} expired"
        )
        entries.append(entry)
    state = State(account, state.lots[len(due) :], state.allocated, state.source_refs, state.authorization)
    return state, tuple(entries)


_RULES: Final[dict[type[Operation], Callable[[State, Any, datetime], _Decided]]] = {
    SetSubscription: _set_subscription,
    GrantCredits: _grant,
    AdjustCredits: _adjust,
    Reserve: _reserve,
    Capture: _capture,
    Release: _release,
    Close: _close,
    Refund: _refund,
    ExpireLots: _expire_lots,
}
