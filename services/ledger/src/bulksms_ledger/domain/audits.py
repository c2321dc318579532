"""Audits: one account looked at piece by piece, for ever; what must agree between entries, reservations and lots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final
from uuid import UUID

import msgspec

from bulksms_ledger.domain.accounts import Account
from bulksms_ledger.domain.authorizations import AttemptTotals
from bulksms_ledger.domain.chain import Chain
from bulksms_ledger.domain.entries import Entry, Postings
from bulksms_ledger.domain.reservations import AllocatedReservation, ReservationState

DIFFERENCES_MAX: Final = 20


class Audit(msgspec.Struct, frozen=True, gc=False):
    """How far an account has been audited, and what was found there.

    Two cursors: `newest_version` follows the new entries; when there are none, `patrol_version` goes through the old
    ones again and again. Neither passes a difference: it is looked at until it is gone.
    """

    tenant_id: str
    newest_version: int
    patrol_version: int
    differences: tuple[str, ...] = ()
    abandoned: tuple[UUID, ...] = ()


class Movements(msgspec.Struct, frozen=True, gc=False):
    """What the entries of one reservation come to, summed by kind."""

    entries: int
    reserved: int
    captured: int
    released: int
    refunded: int
    closes: int


class Totals(msgspec.Struct, frozen=True, gc=False):
    """Sums over an account's lots and reservations; `captured` is None where it has not been summed up."""

    in_lots: int
    reserved: int
    captured: int | None = None


class Examiner:
    """Gathers what differs in one piece of one account."""

    def __init__(self) -> None:
        self.differences: list[str] = []
        self._chain = Chain(self._differ)

    def read(self, after: int, previous: Entry | None, piece: Iterable[tuple[Entry, Postings, bool]]) -> None:
        """Read a piece of entries behind the one it is to continue; None at the very beginning."""
        if previous is not None:
            self._chain.resume(previous)
        elif after:
            self._differ(f"entry {after} is missing, though it had been audited")
        for entry, stored, on_record in piece:
            self._chain.read(entry, stored, on_record=on_record)

    def compare_account(self, account: Account) -> None:
        """The account's row must be what its last entry, just read, says."""
        self._chain.compare(account)

    def compare_reservation(self, reservation_id: UUID, found: AllocatedReservation | None, moved: Movements) -> None:
        """A reservation's figures must be what its entries come to, and its allocations must add up to them."""
        if found is None:
            self._differ(f"reservation {reservation_id} is in entries but not stored")
            return
        stored = found.reservation
        figures = (stored.units, stored.captured, stored.released, stored.refunded)
        if figures != (moved.reserved, moved.captured, moved.released, moved.refunded):
            self._differ(f"reservation {reservation_id} is stored otherwise than its entries say")
        if stored.units != stored.open + stored.authorized + stored.captured + stored.released:
            self._differ(f"reservation {reservation_id}: units are not open + authorized + captured + released")
        if (stored.state is ReservationState.CLOSED) != (moved.closes == 1) or moved.closes > 1:
            self._differ(f"reservation {reservation_id}: its state is not the one its entries lead to")
        allocations = found.allocations
        allocated = (sum(one.open for one in allocations), sum(one.captured for one in allocations))
        if allocated != (stored.open + stored.authorized, stored.captured - stored.refunded):
            self._differ(
                f"reservation {reservation_id}: its lot allocations do not add up to its reserved and captured credits"
            )

    def compare_attempts(self, found: AllocatedReservation, totals: AttemptTotals) -> None:
        """What a reservation has authorized must be what its attempts have."""
        if said := totals.differ_from(found.reservation):
            self._differ(f"reservation {found.reservation.reservation_id}: {said}")

    def compare_totals(self, account: Account, totals: Totals) -> None:
        """Lots and reservations must add up to the account."""
        if totals.in_lots != account.available:
            self._differ(f"the lots have {totals.in_lots} available, the account {account.available}")
        if totals.reserved != account.reserved:
            self._differ(f"reservations have {totals.reserved} open or authorized, the account {account.reserved}")
        if totals.captured is not None and totals.captured != account.captured:
            self._differ(f"reservations captured {totals.captured}, the account {account.captured}")

    def _differ(self, sentence: str) -> None:
        if len(self.differences) < DIFFERENCES_MAX:
            self.differences.append(sentence)


def touched_reservations(piece: Sequence[tuple[Entry, Postings, bool]]) -> list[UUID]:
    """The reservations a piece of entries is about."""
    return sorted({entry.reservation_id for entry, _, _ in piece if entry.reservation_id is not None})
