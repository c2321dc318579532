"""Books: one account's state for a group of operations, loaded under its lock, decided on in order, then saved."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from bulksms_ledger import refusals
from bulksms_ledger.accounts import Account
from bulksms_ledger.decisions import State, apply
from bulksms_ledger.entries import Entry, EntryKind
from bulksms_ledger.lots import Lot, Lots
from bulksms_ledger.operations import (
    Decision,
    Operation,
    Recorded,
    SetSubscription,
    differing_fields,
    encode_content,
)
from bulksms_ledger.refusals import Refusal
from bulksms_ledger.reservations import Reservation


class Book:
    """What is known of one account, and what a group of operations has changed in it."""

    def __init__(
        self,
        account: Account,
        *,
        lots: Lots,
        reservations: Iterable[Reservation],
        operations: Iterable[Recorded],
        source_refs: Iterable[str],
    ) -> None:
        self.account = account
        self._lots = self._loaded_lots = lots
        # By the ids' numbers: hashing a UUID can be a call of Python code, made several times per operation.
        self._reservations = {reservation.reservation_id.int: reservation for reservation in reservations}
        self._operations = {operation.request_id.int: operation for operation in operations}
        self._source_refs = frozenset(source_refs)
        self._touched: set[int] = set()
        self.entries: list[Entry] = []
        self.recorded: list[Recorded] = []
        self.subscription_changes: list[SetSubscription] = []

    def decide(self, operation: Operation, now: datetime) -> Decision:
        """Decide one operation, or answer as its first time did."""
        content = encode_content(operation)
        known = self._operations.get(operation.request_id.int)
        if known is not None:
            return _replay(known, operation, content)
        reservation_id: UUID | None = getattr(operation, "reservation_id", None)
        reservation = self._reservations.get(reservation_id.int) if reservation_id is not None else None
        state, step = apply(State(self.account, self._lots, reservation, self._source_refs), operation, now)
        self.account, self._lots, self._source_refs = state.account, state.lots, state.source_refs
        self.entries.extend(step.entries)
        if isinstance(step.outcome, Refusal):
            if not step.outcome.is_kept:
                return Decision(step.outcome, replayed=False)
        elif state.reservation is not None:
            number = state.reservation.reservation_id.int
            self._reservations[number] = state.reservation
            self._touched.add(number)
        elif isinstance(operation, SetSubscription):
            self.subscription_changes.append(operation)
        recorded = Recorded(operation.request_id, operation.tenant_id, content, step.outcome)
        self._operations[operation.request_id.int] = recorded
        self.recorded.append(recorded)
        return Decision(step.outcome, replayed=False)

    @property
    def changed_reservations(self) -> list[Reservation]:
        """Reservations made or moved by the group, as they are now."""
        return [self._reservations[number] for number in self._touched]

    @property
    def new_lots(self) -> list[tuple[Entry, int]]:
        """Lots brought in by the group: the entry that did, and what is still available of it."""
        available = {lot.version: lot.available for lot in self._lots}
        return [(entry, available.get(entry.version, 0)) for entry in self.entries if brings_lot(entry)]

    @property
    def changed_lots(self) -> list[Lot]:
        """Lots from before the group whose available credits it changed."""
        before = {lot.version: lot for lot in self._loaded_lots}
        after = {lot.version: lot for lot in self._lots}
        new = {entry.version for entry in self.entries}
        changed = [lot for lot in self._lots if lot.version not in new and before.get(lot.version) != lot]
        return changed + [Lot(lot.version, lot.expires_at, 0) for lot in self._loaded_lots if lot.version not in after]


def brings_lot(entry: Entry) -> bool:
    """True for entries whose units are a lot of their own: grants, and adjustments upwards."""
    return entry.kind is EntryKind.GRANT or (entry.kind is EntryKind.ADJUST and entry.units > 0)


def _replay(known: Recorded, operation: Operation, content: str) -> Decision:
    if known.content == content:
        return Decision(known.outcome, replayed=True)
    if known.tenant_id != operation.tenant_id:  # of another tenant's operation nothing else is told
        return Decision(refusals.request_id_reused(operation.request_id, ["tenant_id"]), replayed=False)
    differs = differing_fields(known.content, content)
    return Decision(refusals.request_id_reused(operation.request_id, differs), replayed=False)
