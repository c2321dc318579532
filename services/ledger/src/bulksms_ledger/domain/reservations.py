"""Reservations: credits set aside for a campaign or a message, captured and released bit by bit."""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum
from uuid import UUID

import msgspec

from bulksms_ledger.domain import lots
from bulksms_ledger.domain.lots import Lot, LotAllocations


class ReservationState(IntEnum):
    """The state of a reservation; the numbers are those of the contract and of the database."""

    OPEN = 1
    CLOSED = 2


class Reservation(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A reservation as its callers see it. Always: units = open + captured + released, and refunded ≤ captured."""

    reservation_id: UUID
    tenant_id: str
    campaign_id: str
    units: int
    open: int
    opened_version: int  # of the entry that made it
    created_at: datetime
    captured: int = 0
    released: int = 0
    refunded: int = 0
    state: ReservationState = ReservationState.OPEN
    closed_at: datetime | None = None


class AllocatedReservation(msgspec.Struct, frozen=True, gc=False):
    """A reservation, and the lots it took its credits from."""

    reservation: Reservation
    allocations: LotAllocations

    def capture(self, units: int) -> AllocatedReservation:
        """Spend open credits; the caller has checked that so many are open."""
        before = self.reservation
        reservation = Reservation(
            before.reservation_id,
            before.tenant_id,
            before.campaign_id,
            before.units,
            before.open - units,
            before.opened_version,
            before.created_at,
            before.captured + units,
            before.released,
            before.refunded,
            before.state,
            before.closed_at,
        )
        return AllocatedReservation(reservation, lots.capture(self.allocations, units))

    def release(self, units: int) -> tuple[AllocatedReservation, list[Lot]]:
        """Give open credits back to their lots; the caller has checked that so many are open."""
        before = self.reservation
        allocations, returned = lots.release(self.allocations, units)
        after = msgspec.structs.replace(before, open=before.open - units, released=before.released + units)
        return AllocatedReservation(after, allocations), returned

    def close(self, at: datetime) -> tuple[AllocatedReservation, list[Lot]]:
        """End the reservation and give back what is still open."""
        released, returned = self.release(self.reservation.open)
        closed = msgspec.structs.replace(released.reservation, state=ReservationState.CLOSED, closed_at=at)
        return AllocatedReservation(closed, released.allocations), returned

    def refund(self, units: int) -> tuple[AllocatedReservation, list[Lot]]:
        """Give captured credits back to their lots; the caller has checked that so many are refundable."""
        allocations, returned = lots.refund(self.allocations, units)
        after = msgspec.structs.replace(self.reservation, refunded=self.reservation.refunded + units)
        return AllocatedReservation(after, allocations), returned
