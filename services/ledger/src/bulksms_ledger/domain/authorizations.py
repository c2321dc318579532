"""Authorizations: attempts that may send, what they hold of their reservation, and what became of it."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from bulksms_ledger.domain import positions, refusals
from bulksms_ledger.domain.positions import Positions
from bulksms_ledger.domain.refusals import DomainRefusal
from bulksms_ledger.domain.reservations import Reservation

Name = tuple[int, int]
"""The numbers of a reservation's id and an attempt's."""


class Authorization(msgspec.Struct, frozen=True, gc=False):
    """One attempt, as the ledger knows it. Always: units = authorized + captured + released + voided.

    An attempt that was withdrawn or void before anything was authorized is a tombstone: no positions, no units.
    """

    reservation_id: UUID
    attempt_id: UUID
    created_at: datetime
    taken: Positions = ()  # authorized and not void; they never grow
    captured_positions: Positions = ()  # those of them that were accepted
    units: int = 0
    authorized: int = 0
    captured: int = 0
    released: int = 0  # given up as unresolved for ever: their positions stay taken
    voided: int = 0

    @property
    def name(self) -> Name:
        """What it is found by within its account."""
        return self.reservation_id.int, self.attempt_id.int

    @property
    def unresolved(self) -> Positions:
        """Positions that may have been sent to and of which nobody knows."""
        return positions.without(self.taken, self.captured_positions)

    @property
    def is_untouched(self) -> bool:
        """True when nothing has become of it yet, so that it has what it was authorized with."""
        return self.units > 0 and self.authorized == self.units

    def capture(self, accepted: Positions, units: int) -> Authorization | DomainRefusal:
        """Spend authorized credits for some of its positions, or for all that are unresolved."""
        if not self.taken:
            return refusals.attempt_ended(self.attempt_id)
        unresolved = self.unresolved
        accepted = accepted or unresolved
        if positions.without(accepted, unresolved):
            return refusals.attempt_ended(self.attempt_id)
        if units > self.authorized:
            return refusals.attempt_exceeded(units, self.authorized)
        authorized = self.authorized - units
        if authorized and accepted == unresolved:
            return _leaves_units(self.authorized)
        return msgspec.structs.replace(
            self,
            captured_positions=positions.merge(self.captured_positions + accepted),
            authorized=authorized,
            captured=self.captured + units,
        )

    def release(self, units: int) -> Authorization | DomainRefusal:
        """Give authorized credits back though their positions stay unresolved."""
        if units > self.authorized:
            return refusals.attempt_exceeded(units, self.authorized)
        return msgspec.structs.replace(self, authorized=self.authorized - units, released=self.released + units)

    def void(self) -> Authorization | DomainRefusal:
        """Free all of it; nothing may be captured. One that is void stays as it is."""
        if self.captured_positions:
            return refusals.attempt_captured(self.attempt_id)
        return msgspec.structs.replace(self, taken=positions.NONE, authorized=0, voided=self.voided + self.authorized)

    def void_some(self, refused: Positions, units: int) -> Authorization | DomainRefusal:
        """Free some of its positions; what is free already stays as it is.

        Units that were released before are not there to be given back again.
        """
        if positions.common(refused, self.captured_positions):
            return refusals.attempt_captured(self.attempt_id)
        freed = positions.common(refused, self.taken)
        if not freed:
            return self
        if freed != refused:
            return refusals.invalid_argument("positions", "some are void already, others are not: name only the latter")
        if units > self.authorized + self.released:
            return refusals.attempt_exceeded(units, self.authorized)
        returned = min(units, self.authorized)
        after = msgspec.structs.replace(
            self,
            taken=positions.without(self.taken, freed),
            authorized=self.authorized - returned,
            voided=self.voided + returned,
        )
        return _leaves_units(self.authorized) if after.authorized and not after.unresolved else after


class AttemptTotals(msgspec.Struct, frozen=True, gc=False):
    """What a reservation's attempts come to, those that hold any position."""

    attempts: int
    authorized: int
    captured: int
    released: int

    def differ_from(self, reservation: Reservation) -> str:
        """What is wrong, as a sentence; empty when nothing is. Open credits are captured and released, too."""
        if reservation.authorized != self.authorized:
            return f"{reservation.authorized} are authorized, its attempts have {self.authorized}"
        if self.captured > reservation.captured or self.released > reservation.released:
            return "its attempts captured or released more than it did"
        return ""


def _leaves_units(authorized: int) -> DomainRefusal:
    return refusals.invalid_argument(
        "units", f"must be all {authorized} that are authorized, since no position is left for the others"
    )
