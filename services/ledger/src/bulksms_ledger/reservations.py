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
    """A hold of credits. Always: units = open + captured + released, and refunded ≤ captured."""

    reservation_id: UUID
    tenant_id: str
    campaign_id: str
    units: int
    open: int
    opened_version: int  # of the entry that made it
    created_at: datetime
    pins: Pins
    captured: int = 0
    released: int = 0
    refunded: int = 0
    state: ReservationState = ReservationState.OPEN
    closed_at: datetime | None = None

    def capture(self, units: int) -> Reservation:
        """Spend held credits; the caller has checked that so many are open."""
        return Reservation(
            self.reservation_id,
            self.tenant_id,
            self.campaign_id,
            self.units,
            self.open - units,
            self.opened_version,
            self.created_at,
            lots.capture(self.pins, units),
            self.captured + units,
            self.released,
            self.refunded,
            self.state,
            self.closed_at,
        )

    def release(self, units: int) -> tuple[Reservation, list[Lot]]:
        """Give held credits back to their lots; the caller has checked that so many are open."""
        pins, returned = lots.release(self.pins, units)
        released = self.released + units
        return msgspec.structs.replace(self, open=self.open - units, released=released, pins=pins), returned

    def close(self, at: datetime) -> tuple[Reservation, list[Lot]]:
        """End the hold and give back what is still open."""
        reservation, returned = self.release(self.open)
        return msgspec.structs.replace(reservation, state=ReservationState.CLOSED, closed_at=at), returned

    def refund(self, units: int) -> tuple[Reservation, list[Lot]]:
        """Give captured credits back to their lots; the caller has checked that so many are refundable."""
        pins, returned = lots.refund(self.pins, units)
        return msgspec.structs.replace(self, refunded=self.refunded + units, pins=pins), returned
