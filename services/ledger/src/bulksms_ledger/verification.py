"""Verification: everything an account's entries imply, recomputed from them alone and compared with what is stored."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Final
from uuid import UUID

from bulksms_ledger import lots
from bulksms_ledger.accounts import GENESIS_HASH, Account, Balance
from bulksms_ledger.books import brings_lot
from bulksms_ledger.entries import Entry, EntryKind, Postings, chain_hash, postings
from bulksms_ledger.lots import Lot, Lots
from bulksms_ledger.reservations import Reservation

DIFFERENCES_MAX: Final = 100

StoredLot = tuple[int, int, datetime | None]  # units, available, expires_at


class Verification:
    """Reads an account's entries one by one and says what does not agree.

    A wrong entry is reported once: the chain goes on from the hash that is stored, the balances from those stored.
    """

    def __init__(self, tenant_id: str) -> None:
        self._tenant_id = tenant_id
        self.differences: list[str] = []
        self.entries_read = 0
        self._version = 0
        self._hash = GENESIS_HASH
        self._available = self._reserved = self._captured = 0
        self._last_at: datetime | None = None
        self._lots: Lots = ()
        self._granted_lots: dict[int, Entry] = {}
        self._reservations: dict[UUID, Reservation] = {}

    def read(self, entry: Entry, stored: Postings, *, on_record: bool) -> None:
        """Take in the next entry in version order."""
        self.entries_read += 1
        if entry.version != self._version + 1:
            self._differ(f"entry {self._version + 1} is missing: the next one is entry {entry.version}")
        if chain_hash(self._hash, entry) != entry.hash:
            self._differ(f"entry {entry.version}: its hash is not that of its content and the entry before")
        if self._last_at is not None and entry.created_at < self._last_at:
            self._differ(f"entry {entry.version} is older than the entry before")
        if not on_record:
            self._differ(f"entry {entry.version}: the operation that wrote it is not on record")
        self._add_up(entry, stored)
        try:
            self._follow(entry)
        except (lots.Imbalance, LookupError) as error:
            self._differ(f"entry {entry.version}: {error}")
        self._version, self._hash, self._last_at = entry.version, entry.hash, entry.created_at
        self._available, self._reserved, self._captured = (
            entry.available_after,
            entry.reserved_after,
            entry.captured_after,
        )

    def balance(self, as_of: datetime) -> Balance:
        """The balance recomputed."""
        return Balance(self._available, self._reserved, self._captured, self._version, as_of)

    def compare(
        self, account: Account, reservations: Mapping[UUID, Reservation], stored_lots: Mapping[int, StoredLot]
    ) -> None:
        """Compare with what is stored beside the entries, once all are read."""
        self._compare_account(account)
        for reservation_id in sorted(self._reservations.keys() | reservations.keys()):
            self._compare_reservation(reservation_id, reservations.get(reservation_id))
        available = {lot.version: lot.available for lot in self._lots}
        recomputed = {
            version: (entry.units, available.get(version, 0), entry.expires_at)
            for version, entry in self._granted_lots.items()
        }
        for version in sorted(recomputed.keys() | stored_lots.keys()):
            if recomputed.get(version) != stored_lots.get(version):
                self._differ(f"lot {version} is stored otherwise than the entries say")
        in_lots = sum(available.values())
        if in_lots != self._available:
            self._differ(f"the lots have {in_lots} available, the balance {self._available}")

    def _add_up(self, entry: Entry, stored: Postings) -> None:
        moved = postings(entry.kind, entry.units)
        if moved != stored:
            self._differ(f"entry {entry.version}: its postings are not those of its kind and units")
        expected = (
            self._available + moved.available,
            self._reserved + moved.reserved,
            self._captured + moved.captured,
        )
        if expected != (entry.available_after, entry.reserved_after, entry.captured_after):
            self._differ(f"entry {entry.version}: its balances do not follow from those of the entry before")

    def _follow(self, entry: Entry) -> None:
        """Do to lots and reservations what the entry did."""
        if brings_lot(entry):
            self._granted_lots[entry.version] = entry
            self._lots = lots.add(self._lots, Lot(entry.version, entry.expires_at, entry.units))
        elif entry.kind is EntryKind.ADJUST:
            self._lots, _ = lots.take(self._lots, -entry.units)
        elif entry.kind is EntryKind.EXPIRE:
            if (
                not self._lots
                or self._lots[0].available != entry.units
                or not self._lots[0].has_expired(entry.created_at)
            ):
                raise LookupError(f"no lot of {entry.units} available credits had expired")
            self._lots = self._lots[1:]
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
        self._lots, pins = lots.take(self._lots, entry.units)
        self._reservations[reservation_id] = Reservation(
            reservation_id=reservation_id,
            tenant_id=entry.tenant_id,
            campaign_id=entry.campaign_id,
            units=entry.units,
            open=entry.units,
            opened_version=entry.version,
            created_at=entry.created_at,
            pins=pins,
        )

    def _move(self, entry: Entry, reservation_id: UUID) -> None:
        reservation = self._reservations.get(reservation_id)
        if reservation is None:
            raise LookupError(f"reservation {reservation_id} had not been made")
        returned: list[Lot] = []
        if entry.kind is EntryKind.CAPTURE:
            reservation = reservation.capture(entry.units)
        elif entry.kind is EntryKind.RELEASE:
            reservation, returned = reservation.release(entry.units)
        elif entry.kind is EntryKind.CLOSE:
            if reservation.open != entry.units:
                raise LookupError(f"reservation {reservation_id} had {reservation.open} open, not {entry.units}")
            reservation, returned = reservation.close(entry.created_at)
        else:
            reservation, returned = reservation.refund(entry.units)
        self._reservations[reservation_id] = reservation
        self._lots = lots.put_back(self._lots, returned)

    def _compare_account(self, account: Account) -> None:
        stored = (account.available, account.reserved, account.captured)
        recomputed = (self._available, self._reserved, self._captured)
        if stored != recomputed:
            self._differ(f"the account has available, reserved, captured {stored}, its entries come to {recomputed}")
        if (account.version, account.entry_hash, account.last_entry_at) != (self._version, self._hash, self._last_at):
            self._differ(
                f"the account stands at entry {account.version}, "
                f"its entries end at {self._version} or with another hash"
            )

    def _compare_reservation(self, reservation_id: UUID, stored: Reservation | None) -> None:
        recomputed = self._reservations.get(reservation_id)
        if stored is None or recomputed is None:
            where = "entries but not stored" if stored is None else "stored but in no entry"
            self._differ(f"reservation {reservation_id} is in {where}")
            return
        differing = [
            name for name in Reservation.__struct_fields__ if getattr(stored, name) != getattr(recomputed, name)
        ]
        if differing:
            self._differ(
                f"reservation {reservation_id} is stored otherwise than the entries say: {', '.join(differing)}"
            )

    def _differ(self, sentence: str) -> None:
        if len(self.differences) < DIFFERENCES_MAX:
            self.differences.append(sentence)
