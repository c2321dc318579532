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
    Answer,
    AnyOperation,
    Capture,
    Decision,
    Recorded,
    SetSubscription,
    differing_fields,
)
from bulksms_ledger.refusals import Refusal
from bulksms_ledger.reservations import Hold


class Book:
    """What is known of one account, and what a group of operations has changed in it."""

    def __init__(
        self,
        account: Account,
        *,
        lots: Lots,
        holds: Iterable[Hold],
        operations: Iterable[Recorded],
        source_refs: Iterable[str],
    ) -> None:
        self.account = account
        self._lots = self._loaded_lots = lots
        self._lots_have_moved = False  # captures leave them as they are
        # By the ids' numbers: hashing a UUID can be a call of Python code, made several times per operation.
        self._holds = {hold.reservation.reservation_id.int: hold for hold in holds}
        self._operations = {recorded.operation.request_id.int: recorded for recorded in operations}
        self._source_refs = frozenset(source_refs)
        self._touched: set[int] = set()
        self.entries: list[Entry] = []
        self.recorded: list[Recorded] = []
        self.subscription_changes: list[SetSubscription] = []

    def decide(self, operation: AnyOperation, now: datetime) -> Decision:
        """Decide one operation, or answer as its first time did."""
        request_number = operation.request_id.int
        known = self._operations.get(request_number)
        if known is not None:
            return _replay(known, operation)
        reservation_id: UUID | None = getattr(operation, "reservation_id", None)
        hold = self._holds.get(reservation_id.int) if reservation_id is not None else None
        state, step = apply(State(self.account, self._lots, hold, self._source_refs), operation, now)
        self._lots_have_moved |= state.lots is not self._lots
        self.account, self._lots, self._source_refs = state.account, state.lots, state.source_refs
        self.entries.extend(step.entries)
        outcome = step.outcome
        if isinstance(outcome, Refusal):
            if not outcome.is_kept:
                return Decision(outcome, False)
        elif state.hold is not None:
            number = state.hold.reservation.reservation_id.int
            self._holds[number] = state.hold
            self._touched.add(number)
        elif isinstance(operation, SetSubscription):
            self.subscription_changes.append(operation)
        is_capture = type(operation) is Capture and type(outcome) is Answer
        recorded = Recorded(operation, outcome, step.entries[-1].version if is_capture else 0)
        self._operations[request_number] = recorded
        self.recorded.append(recorded)
        return Decision(outcome, False)

    @property
    def changed_holds(self) -> list[Hold]:
        """Reservations made or moved by the group, as they are now."""
        return [self._holds[number] for number in self._touched]

    @property
    def new_lots(self) -> list[tuple[Entry, int]]:
        """Lots brought in by the group: the entry that did, and what is still available of it."""
        if not self._lots_have_moved:
            return []
        available = {lot.version: lot.available for lot in self._lots}
        return [(entry, available.get(entry.version, 0)) for entry in self.entries if brings_lot(entry)]

    @property
    def changed_lots(self) -> list[Lot]:
        """Lots from before the group whose available credits it changed."""
        if not self._lots_have_moved:
            return []
        before = {lot.version: lot for lot in self._loaded_lots}
        after = {lot.version: lot for lot in self._lots}
        new = {entry.version for entry in self.entries}
        changed = [lot for lot in self._lots if lot.version not in new and before.get(lot.version) != lot]
        return changed + [Lot(lot.version, lot.expires_at, 0) for lot in self._loaded_lots if lot.version not in after]


def brings_lot(entry: Entry) -> bool:
    """True for entries whose units are a lot of their own: grants, and adjustments upwards."""
    return entry.kind is EntryKind.GRANT or (entry.kind is EntryKind.ADJUST and entry.units > 0)


def _replay(known: Recorded, operation: AnyOperation) -> Decision:
    if known.operation == operation:
        return Decision(known.outcome, replayed=True)
    if known.operation.tenant_id != operation.tenant_id:  # of another tenant's operation nothing else is told
        return Decision(refusals.request_id_reused(operation.request_id, ["tenant_id"]), replayed=False)
    differs = differing_fields(known.operation, operation)
    return Decision(refusals.request_id_reused(operation.request_id, differs), replayed=False)
