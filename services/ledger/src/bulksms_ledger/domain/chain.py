"""Chain: entries read one after the other, each checked against itself and the one before."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from bulksms_ledger.domain.accounts import GENESIS_HASH, Account, Balance
from bulksms_ledger.domain.entries import Entry, Postings, chain_hash, postings

Differ = Callable[[str], None]
"""Takes in one sentence about what differs."""


class Chain:
    """Versions without a gap, postings, running balances, hashes, time.

    A wrong entry is reported once: the chain goes on from the hash that is stored, the balances from those stored.
    """

    def __init__(self, differ: Differ) -> None:
        self._differ = differ
        self.version = 0
        self._hash = GENESIS_HASH
        self._available = self._reserved = self._captured = 0
        self._last_at: datetime | None = None

    @property
    def available(self) -> int:
        """What the last entry left available."""
        return self._available

    def resume(self, entry: Entry) -> None:
        """Go on behind this entry, which has been read before."""
        self.version, self._hash, self._last_at = entry.version, entry.hash, entry.created_at
        self._available, self._reserved, self._captured = (
            entry.available_after,
            entry.reserved_after,
            entry.captured_after,
        )

    def read(self, entry: Entry, stored: Postings, *, on_record: bool) -> None:
        """Take in the next entry in version order, the postings stored with it, and whether its operation is kept."""
        if entry.version != self.version + 1:
            self._differ(f"entry {self.version + 1} is missing: the next one is entry {entry.version}")
        if chain_hash(self._hash, entry) != entry.hash:
            self._differ(f"entry {entry.version}: its hash is not that of its content and the entry before")
        if self._last_at is not None and entry.created_at < self._last_at:
            self._differ(f"entry {entry.version} is older than the entry before")
        if not on_record:
            self._differ(f"entry {entry.version}: the operation that wrote it is not on record")
        self._add_up(entry, stored)
        self.resume(entry)

    def balance(self, as_of: datetime) -> Balance:
        """The balance the entries come to."""
        return Balance(self._available, self._reserved, self._captured, self.version, as_of)

    def compare(self, account: Account) -> None:
        """Compare with the account's row, once all entries are read."""
        stored = (account.available, account.reserved, account.captured)
        recomputed = (self._available, self._reserved, self._captured)
        if stored != recomputed:
            self._differ(f"the account has available, reserved, captured {stored}, its entries come to {recomputed}")
        if (account.version, account.entry_hash, account.last_entry_at) != (self.version, self._hash, self._last_at):
            self._differ(
                f"the account stands at entry {account.version}, its entries end at {self.version} or with another hash"
            )

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
