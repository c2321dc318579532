"""Attempt decisions: whether an attempt may send, may have sent, or is void; pure, as `decisions` is.

They write no entry: an account's reserved credits are the same whether a reservation has them open or authorized.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from uuid import uuid5

import msgspec

from bulksms_ledger.domain import positions, refusals
from bulksms_ledger.domain.accounts import Account
from bulksms_ledger.domain.attempts import AttemptOutcome, AttemptRequest, Authorize, Void
from bulksms_ledger.domain.authorizations import Authorization
from bulksms_ledger.domain.operations import Release
from bulksms_ledger.domain.refusals import DomainRefusal
from bulksms_ledger.domain.reservations import AllocatedReservation, ReservationState

Holders = Callable[[positions.Positions], Iterable[Authorization]]
"""The authorizations of the reservation that hold any of these positions."""


class AttemptState(msgspec.Struct, frozen=True, gc=False):
    """What a decision about an attempt depends on."""

    account: Account
    allocated: AllocatedReservation
    authorization: Authorization | None
    holders: Holders


def authorize(state: AttemptState, asked: Authorize, at: datetime) -> Authorization | DomainRefusal:
    """The attempt's authorization, or why it may not send.

    What others hold is told before anything else that is wrong: who asks with a row of long ago learns from it what
    has become of its recipients, also when the reservation is closed.
    """
    reservation, known = state.allocated.reservation, state.authorization
    if (reservation.campaign_id, reservation.enqueue_number) != (asked.campaign_id, asked.enqueue_number):
        return refusals.reservation_not_found(asked.tenant_id, asked.reservation_id)
    if known is not None:
        return _again(known, state.allocated, asked)
    refusal = _refuse_positions(state, asked) or _refuse_units(state, asked, at)
    if refusal is not None:
        return refusal
    return Authorization(
        asked.reservation_id, asked.attempt_id, at, asked.positions, positions.NONE, asked.units, asked.units
    )


def withdraw(state: AttemptState, asked: AttemptRequest, at: datetime) -> tuple[Authorization, AttemptOutcome]:
    """The attempt as it is from now on, and whether it may have been sent."""
    known = state.authorization or tombstone(asked, at)
    return known, AttemptOutcome.AUTHORIZED if known.taken else AttemptOutcome.WITHDRAWN


def void(state: AttemptState, asked: Void, at: datetime) -> Authorization | DomainRefusal:
    """The attempt as it is from now on, without what was taken back; or why it cannot be."""
    known = state.authorization
    if known is None:
        return tombstone(asked, at)
    return known.void_some(asked.positions, asked.units) if asked.positions else known.void()


def void_of_closed(asked: Void, units: int) -> Release:
    """What gives a void attempt's credits back when its reservation, being closed, can have nothing open any more.

    Its entry needs a request on record. A position becomes void once, so the id is used once.
    """
    what = f"void {asked.tenant_id} {asked.reservation_id} {asked.positions}"
    request_id = uuid5(asked.attempt_id, what)
    return Release(request_id, asked.tenant_id, asked.reservation_id, units, "attempt void", asked.attempt_id)


def tombstone(asked: AttemptRequest, at: datetime) -> Authorization:
    """An attempt that was never authorized and never will be."""
    return Authorization(asked.reservation_id, asked.attempt_id, at)


def _again(known: Authorization, allocated: AllocatedReservation, asked: Authorize) -> Authorization | DomainRefusal:
    """A transaction whose outcome is not known is done again: it finds what it did the first time."""
    if not known.is_untouched:
        return refusals.attempt_ended(known.attempt_id)
    before = (known.taken, known.units, allocated.snapshot_digest)
    if before != (asked.positions, asked.units, asked.snapshot_digest):
        return refusals.attempt_reused(known.attempt_id)
    return known


def _refuse_positions(state: AttemptState, asked: Authorize) -> DomainRefusal | None:
    if state.allocated.snapshot_digest not in (b"", asked.snapshot_digest):
        return refusals.snapshot_mismatch(asked.reservation_id)
    holders = list(state.holders(asked.positions))
    if not holders:
        return None
    captured = positions.merge(
        found for one in holders for found in positions.common(asked.positions, one.captured_positions)
    )
    held = positions.merge(found for one in holders for found in positions.common(asked.positions, one.taken))
    return refusals.positions_taken(captured, positions.without(held, captured))


def _refuse_units(state: AttemptState, asked: Authorize, at: datetime) -> DomainRefusal | None:
    reservation, subscription = state.allocated.reservation, state.account.subscription
    if reservation.state is ReservationState.CLOSED:
        return refusals.reservation_closed(reservation.reservation_id)
    if subscription is None or not subscription.is_active(at):
        return refusals.subscription_inactive(state.account)
    if asked.units > reservation.open:
        return refusals.reservation_exceeded(asked.units, reservation.open)
    return None
