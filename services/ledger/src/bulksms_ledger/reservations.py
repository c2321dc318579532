"""Reservations: credits held for a campaign or a message, captured and released bit by bit."""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum
from uuid import UUID

import msgspec

from bulksms_ledger import lots
from bulksms_ledger.lots import Lot, Pins


class ReservationState(IntEnum):
    """The state of a hold; the numbers are those of the contract and of the database."""

    OPEN = 1
    CLOSED = 2


class Reservation(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A hold of credits as it is told. Always: units = open + captured + released, and refunded ≤ captured."""

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


class Hold(msgspec.Struct, frozen=True, gc=False):
    """A reservation, and the lots whose credits it holds and has captured."""

    reservation: Reservation
    pins: Pins

    def capture(self, units: int) -> Hold:
        """Spend held credits; the caller has checked that so many are open."""
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
        return Hold(reservation, lots.capture(self.pins, units))

    def release(self, units: int) -> tuple[Hold, list[Lot]]:
        """Give held credits back to their lots; the caller has checked that so many are open."""
        before = self.reservation
        pins, returned = lots.release(self.pins, units)
        after = msgspec.structs.replace(before, open=before.open - units, released=before.released + units)
        return Hold(after, pins), returned

    def close(self, at: datetime) -> tuple[Hold, list[Lot]]:
        """End the hold and give back what is still open."""
        hold, returned = self.release(self.reservation.open)
        closed = msgspec.structs.replace(hold.reservation, state=ReservationState.CLOSED, closed_at=at)
        return Hold(closed, hold.pins), returned

    def refund(self, units: int) -> tuple[Hold, list[Lot]]:
        """Give captured credits back to their lots; the caller has checked that so many are refundable."""
        pins, returned = lots.refund(self.pins, units)
        after = msgspec.structs.replace(self.reservation, refunded=self.reservation.refunded + units)
        return Hold(after, pins), returned
