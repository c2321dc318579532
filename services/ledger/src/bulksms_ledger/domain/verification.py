"""Verification: everything an account's entries imply, recomputed from them alone and compared with what is stored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from bulksms_ledger.domain import lots
from bulksms_ledger.domain.accounts import Account, Balance
from bulksms_ledger.domain.authorizations import AttemptTotals
from bulksms_ledger.domain.chain import Chain
from bulksms_ledger.domain.entries import Entry, EntryKind, Postings
from bulksms_ledger.domain.lots import Lot, Lots
from bulksms_ledger.domain.reservations import AllocatedReservation, Reservation

DIFFERENCES_MAX: Final = 100

StoredLot = tuple[int, int, datetime | None]  # units, available, expires_at


class Verification:
    """Reads an account's entries one by one and says what does not agree.

    Its memory does not grow with the history: a reservation that is closed can be compared at once (`take_closed`,
    `forget_matching`) and forgotten, unless what is stored differs: a refund may still be to come.
    """

    def __init__(self, tenant_id: str) -> None:
        self._tenant_id = tenant_id
        self.differences: list[str] = []
        self.entries_read = 0
        self._chain = Chain(self._differ)
        self._lots: Lots = ()
        self._granted_lots: dict[int, Entry] = {}
        self._reservations: dict[UUID, AllocatedReservation] = {}
        self._closed: list[UUID] = []
        self._matching = 0

    def read(self, entry: Entry, stored: Postings, *, on_record: bool) -> None:
        """Take in the next entry in version order."""
        self.entries_read += 1
        self._chain.read(entry, stored, on_record=on_record)
        try:
            self._follow(entry)
        except (lots.Imbalance, LookupError) as error:
            self._differ(f"entry {entry.version}: {error}")

    def balance(self, as_of: datetime) -> Balance:
        """The balance recomputed."""
        return self._chain.balance(as_of)

    def take_closed(self) -> list[UUID]:
        """Reservations closed since this was last asked."""
        closed, self._closed = self._closed, []
        return closed

    @property
    def remaining(self) -> list[UUID]:
        """Reservations still to be compared with what is stored, once all entries are read."""
        return sorted(self._reservations)

    def forget_matching(self, stored: Mapping[UUID, AllocatedReservation]) -> dict[UUID, AllocatedReservation]:
        """Forget those of these reservations that are stored as recomputed so far; they are returned."""
        forgotten: dict[UUID, AllocatedReservation] = {}
        for reservation_id, allocated in stored.items():
            if self._reservations.get(reservation_id) == as_in_entries(allocated):
                del self._reservations[reservation_id]
                self._matching += 1
                forgotten[reservation_id] = allocated
        return forgotten

    def compare_attempts(
        self, stored: Mapping[UUID, AllocatedReservation], totals: Mapping[UUID, AttemptTotals]
    ) -> None:
        """Compare what these reservations have authorized, of which no entry speaks, with their attempts."""
        for reservation_id, allocated in stored.items():
            if said := totals[reservation_id].differ_from(allocated.reservation):
                self._differ(f"reservation {reservation_id}: {said}")

    def compare_reservations(
        self, reservation_ids: Iterable[UUID], stored: Mapping[UUID, AllocatedReservation]
    ) -> None:
        """Compare these reservations with what is stored, once all entries are read."""
        for reservation_id in reservation_ids:
            self._compare_reservation(reservation_id, stored.get(reservation_id))

    def compare(self, account: Account, stored_lots: Mapping[int, StoredLot], reservations: int) -> None:
        """Compare account, lots and the number of reservations with what is stored, once all entries are read."""
        self._chain.compare(account)
        recomputed_reservations = self._matching + len(self._reservations)
        if recomputed_reservations != reservations:
            self._differ(f"{reservations} reservations are stored, {recomputed_reservations} are in entries")
        available = {lot.version: lot.available for lot in self._lots}
        recomputed = {
            version: (entry.units, available.get(version, 0), entry.expires_at)
            for version, entry in self._granted_lots.items()
        }
        for version in sorted(recomputed.keys() | stored_lots.keys()):
            if recomputed.get(version) != stored_lots.get(version):
                self._differ(f"lot {version} is stored otherwise than the entries say")
        in_lots = sum(available.values())
        if in_lots != self._chain.available:
            self._differ(f"the lots have {in_lots} available, the balance {self._chain.available}")

    def _follow(self, entry: Entry) -> None:
        """Do to lots and reservations what the entry did."""
        if entry.brings_lot:
            self._granted_lots[entry.version] = entry
            self._lots = lots.add(self._lots, Lot(entry.version, entry.expires_at, entry.units))
        elif entry.kind is EntryKind.ADJUST:
            self._lots, _ = lots.take(self._lots, -entry.units)
        elif entry.kind is EntryKind.EXPIRE:
            self._expire(entry)
        elif entry.reservation_id is None:
            raise LookupError(f"a {entry.kind.name} must name its reservation")
        elif entry.kind is EntryKind.RESERVE:
            self._open(entry, entry.reservation_id)
        else:
            self._move(entry, entry.reservation_id)

    def _expire(self, entry: Entry) -> None:
        first = self._lots[0] if self._lots else None
        if first is None or first.available != entry.units or not first.has_expired(entry.created_at):
            raise LookupError(f"no lot of {entry.units} available credits had expired")
        self._lots = self._lots[1:]

    def _open(self, entry: Entry, reservation_id: UUID) -> None:
        if reservation_id in self._reservations:
            raise LookupError(f"reservation {reservation_id} had been made already")
        self._lots, allocations = lots.take(self._lots, entry.units)
        reservation = Reservation(
            reservation_id=reservation_id,
            tenant_id=entry.tenant_id,
            campaign_id=entry.campaign_id,
            units=entry.units,
            open=entry.units,
            opened_version=entry.version,
            created_at=entry.created_at,
        )
        self._reservations[reservation_id] = AllocatedReservation(reservation, allocations)

    def _move(self, entry: Entry, reservation_id: UUID) -> None:
        allocated = self._reservations.get(reservation_id)
        if allocated is None:
            raise LookupError(f"reservation {reservation_id} had not been made")
        returned: list[Lot] = []
        if entry.kind is EntryKind.CAPTURE:
            allocated = allocated.capture(entry.units)
        elif entry.kind is EntryKind.RELEASE:
            allocated, returned = allocated.release(entry.units)
        elif entry.kind is EntryKind.CLOSE:
            reserved = allocated.reservation.open
            if reserved < entry.units:
                raise LookupError(f"reservation {reservation_id} had {reserved} reserved, not {entry.units}")
            # The others were authorized, which no entry says.
            allocated, returned = allocated.authorize(reserved - entry.units, b"").close(entry.created_at)
            allocated = as_in_entries(allocated)
            self._closed.append(reservation_id)
        else:
            allocated, returned = allocated.refund(entry.units)
        self._reservations[reservation_id] = allocated
        self._lots = lots.put_back(self._lots, returned)

    def _compare_reservation(self, reservation_id: UUID, stored: AllocatedReservation | None) -> None:
        recomputed = self._reservations.get(reservation_id)
        if stored is None or recomputed is None:
            self._differ(f"reservation {reservation_id} is in entries but not stored")
            return
        one, other = as_in_entries(stored).reservation, recomputed.reservation
        differing = [name for name in Reservation.__struct_fields__ if getattr(one, name) != getattr(other, name)]
        if stored.allocations != recomputed.allocations:
            differing.append("allocations")
        if differing:
            self._differ(
                f"reservation {reservation_id} is stored otherwise than the entries say: {', '.join(differing)}"
            )

    def _differ(self, sentence: str) -> None:
        if len(self.differences) < DIFFERENCES_MAX:
            self.differences.append(sentence)


def as_in_entries(allocated: AllocatedReservation) -> AllocatedReservation:
    """A reservation without what entries do not say: which of its reserved credits are authorized, and for whom.

    That is compared with the authorizations themselves.
    """
    stored = allocated.reservation
    reservation = msgspec.structs.replace(stored, open=stored.open + stored.authorized, authorized=0, enqueue_number=0)
    return AllocatedReservation(reservation, allocated.allocations)
