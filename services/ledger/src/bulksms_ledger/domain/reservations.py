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
    """A reservation as its callers see it.

    Always: units = open + authorized + captured + released, and refunded ≤ captured.
    """

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
    authorized: int = 0  # of attempts whose outcome is open
    enqueue_number: int = 0


class AllocatedReservation(msgspec.Struct, frozen=True, gc=False):
    """A reservation, and the lots it took its credits from: what is open in an allocation is open or authorized."""

    reservation: Reservation
    allocations: LotAllocations
    snapshot_digest: bytes = b""  # of the recipients whose positions are authorized; empty before the first
    number: int = 0  # given by the database; 0 before it is written

    def authorize(self, units: int, snapshot_digest: bytes) -> AllocatedReservation:
        """Let an attempt have open credits; the caller has checked that so many are open."""
        before = self.reservation
        after = msgspec.structs.replace(before, open=before.open - units, authorized=before.authorized + units)
        return AllocatedReservation(after, self.allocations, snapshot_digest, self.number)

    def reopen(self, units: int) -> AllocatedReservation:
        """Take authorized credits back from an attempt that is void."""
        before = self.reservation
        after = msgspec.structs.replace(before, open=before.open + units, authorized=before.authorized - units)
        return msgspec.structs.replace(self, reservation=after)

    def capture_authorized(self, units: int) -> AllocatedReservation:
        """Spend authorized credits, of a closed reservation, too."""
        return self.reopen(units).capture(units)

    def release_authorized(self, units: int) -> tuple[AllocatedReservation, list[Lot]]:
        """Give authorized credits back to their lots, of a closed reservation, too."""
        return self.reopen(units).release(units)

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
            before.authorized,
            before.enqueue_number,
        )
        allocations = lots.capture(self.allocations, units)
        return AllocatedReservation(reservation, allocations, self.snapshot_digest, self.number)

    def release(self, units: int) -> tuple[AllocatedReservation, list[Lot]]:
        """Give open credits back to their lots; the caller has checked that so many are open."""
        before = self.reservation
        allocations, returned = lots.release(self.allocations, units)
        after = msgspec.structs.replace(before, open=before.open - units, released=before.released + units)
        return self._moved(after, allocations), returned

    def close(self, at: datetime) -> tuple[AllocatedReservation, list[Lot]]:
        """End the reservation and give back what is still open; what is authorized stays."""
        released, returned = self.release(self.reservation.open)
        closed = msgspec.structs.replace(released.reservation, state=ReservationState.CLOSED, closed_at=at)
        return self._moved(closed, released.allocations), returned

    def refund(self, units: int) -> tuple[AllocatedReservation, list[Lot]]:
        """Give captured credits back to their lots; the caller has checked that so many are refundable."""
        allocations, returned = lots.refund(self.allocations, units)
        after = msgspec.structs.replace(self.reservation, refunded=self.reservation.refunded + units)
        return self._moved(after, allocations), returned

    def _moved(self, reservation: Reservation, allocations: LotAllocations) -> AllocatedReservation:
        return AllocatedReservation(reservation, allocations, self.snapshot_digest, self.number)
