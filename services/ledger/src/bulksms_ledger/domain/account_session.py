"""Account session: one account's state while a group of operations is decided, from its lock to its commit."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from bulksms_ledger.domain import refusals
from bulksms_ledger.domain.accounts import Account
from bulksms_ledger.domain.decisions import State, apply
from bulksms_ledger.domain.entries import Entry
from bulksms_ledger.domain.lots import Lot, Lots
from bulksms_ledger.domain.operations import (
    AnyOperation,
    Capture,
    Decision,
    OperationResult,
    RecordedOperation,
    SetSubscription,
    differing_fields,
)
from bulksms_ledger.domain.refusals import DomainRefusal
from bulksms_ledger.domain.reservations import AllocatedReservation


class AccountSession:
    """What is known of one account, and what a group of operations has changed in it."""

    def __init__(
        self,
        account: Account,
        *,
        lots: Lots,
        reservations: Iterable[AllocatedReservation],
        operations: Iterable[RecordedOperation],
        source_refs: Iterable[str],
    ) -> None:
        self.account = account
        self._lots = self._loaded_lots = lots
        self._lots_have_moved = False  # captures leave them as they are
        # By the ids' numbers: hashing a UUID can be a call of Python code, made several times per operation.
        self._reservations = {allocated.reservation.reservation_id.int: allocated for allocated in reservations}
        self._operations = {recorded.operation.request_id.int: recorded for recorded in operations}
        self._source_refs = frozenset(source_refs)
        self._touched: set[int] = set()
        self.entries: list[Entry] = []
        self.recorded: list[RecordedOperation] = []
        self.subscription_changes: list[SetSubscription] = []

    def decide(self, operation: AnyOperation, now: datetime) -> Decision:
        """Decide one operation, or answer as its first time did."""
        request_number = operation.request_id.int
        known = self._operations.get(request_number)
        if known is not None:
            return _replay(known, operation)
        reservation_id: UUID | None = getattr(operation, "reservation_id", None)
        allocated = self._reservations.get(reservation_id.int) if reservation_id is not None else None
        state, step = apply(State(self.account, self._lots, allocated, self._source_refs), operation, now)
        self._lots_have_moved |= state.lots is not self._lots
        self.account, self._lots, self._source_refs = state.account, state.lots, state.source_refs
        self.entries.extend(step.entries)
        outcome = step.outcome
        if isinstance(outcome, DomainRefusal):
            if not outcome.is_kept:
                return Decision(outcome, False)
        elif state.allocated is not None:
            number = state.allocated.reservation.reservation_id.int
            self._reservations[number] = state.allocated
            self._touched.add(number)
        elif isinstance(operation, SetSubscription):
            self.subscription_changes.append(operation)
        is_capture = type(operation) is Capture and type(outcome) is OperationResult
        recorded = RecordedOperation(operation, outcome, step.entries[-1].version if is_capture else 0)
        self._operations[request_number] = recorded
        self.recorded.append(recorded)
        return Decision(outcome, False)

    @property
    def changed_reservations(self) -> list[AllocatedReservation]:
        """Reservations made or moved by the group, as they are now."""
        return [self._reservations[number] for number in self._touched]

    @property
    def new_lots(self) -> list[tuple[Entry, int]]:
        """Lots brought in by the group: the entry that did, and what is still available of it."""
        if not self._lots_have_moved:
            return []
        available = {lot.version: lot.available for lot in self._lots}
        return [(entry, available.get(entry.version, 0)) for entry in self.entries if entry.brings_lot]

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


def _replay(known: RecordedOperation, operation: AnyOperation) -> Decision:
    if known.operation == operation:
        return Decision(known.outcome, replayed=True)
    if known.operation.tenant_id != operation.tenant_id:  # of another tenant's operation nothing else is told
        return Decision(refusals.request_id_reused(operation.request_id, ["tenant_id"]), replayed=False)
    differs = differing_fields(known.operation, operation)
    return Decision(refusals.request_id_reused(operation.request_id, differs), replayed=False)
