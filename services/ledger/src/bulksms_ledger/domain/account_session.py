"""Account session: one account's state while a group of operations is decided, from its lock to its commit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from functools import partial
from uuid import UUID

from bulksms_ledger.domain import attempt_decisions, refusals
from bulksms_ledger.domain.accounts import Account
from bulksms_ledger.domain.attempt_decisions import AttemptState
from bulksms_ledger.domain.attempts import AttemptOutcome, AttemptRequest, Authorize, Void
from bulksms_ledger.domain.authorizations import Authorization, Name
from bulksms_ledger.domain.decisions import State, apply, instant
from bulksms_ledger.domain.entries import Entry
from bulksms_ledger.domain.lots import Lot, Lots
from bulksms_ledger.domain.operations import (
    AnyOperation,
    Capture,
    Decision,
    OperationResult,
    RecordedOperation,
    Release,
    Request,
    SetSubscription,
    differing_fields,
)
from bulksms_ledger.domain.positions import Positions
from bulksms_ledger.domain.refusals import DomainRefusal
from bulksms_ledger.domain.reservations import AllocatedReservation, ReservationState
from bulksms_ledger.domain.taken_positions import TakenPositions


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
        authorizations: Iterable[Authorization] = (),
    ) -> None:
        self.account = account
        self._lots = self._loaded_lots = lots
        self._lots_have_moved = False  # captures leave them as they are
        # By the ids' numbers: hashing a UUID can be a call of Python code, made several times per operation.
        self._reservations = {allocated.reservation.reservation_id.int: allocated for allocated in reservations}
        self._operations = {recorded.operation.request_id.int: recorded for recorded in operations}
        self._source_refs = frozenset(source_refs)
        self._touched: set[int] = set()
        self._authorizations = {one.name: one for one in authorizations}
        self._loaded_authorizations = frozenset(self._authorizations)
        self._touched_authorizations: set[Name] = set()
        self._taken: defaultdict[int, TakenPositions] = defaultdict(TakenPositions)
        for (reservation, attempt), one in self._authorizations.items():
            self._taken[reservation].take(attempt, one.taken)
        self.entries: list[Entry] = []
        self.recorded: list[RecordedOperation] = []
        self.subscription_changes: list[SetSubscription] = []

    def decide(self, request: Request, now: datetime) -> Decision:
        """Decide one request, or answer as its first time did."""
        if isinstance(request, AttemptRequest):
            return Decision(self._decide_attempt(request, instant(self.account, now)), replayed=False)
        known = self._operations.get(request.request_id.int)
        return self._carry_out(request, now) if known is None else _replay(known, request)

    def _carry_out(self, operation: AnyOperation, now: datetime) -> Decision:
        reservation_id: UUID | None = getattr(operation, "reservation_id", None)
        allocated = self._reservations.get(reservation_id.int) if reservation_id is not None else None
        state = State(self.account, self._lots, allocated, self._source_refs, self._authorization_of(operation))
        state, step = apply(state, operation, now)
        self._lots_have_moved |= state.lots is not self._lots
        self.account, self._lots, self._source_refs = state.account, state.lots, state.source_refs
        self.entries.extend(step.entries)
        outcome = step.outcome
        if isinstance(outcome, DomainRefusal):
            if not outcome.is_kept:
                return Decision(outcome, False)
        elif state.allocated is not None:
            self._keep(state.allocated, state.authorization)
        elif isinstance(operation, SetSubscription):
            self.subscription_changes.append(operation)
        is_capture = type(operation) is Capture and type(outcome) is OperationResult
        recorded = RecordedOperation(operation, outcome, step.entries[-1].version if is_capture else 0)
        self._operations[operation.request_id.int] = recorded
        self.recorded.append(recorded)
        return Decision(outcome, False)

    def _authorization_of(self, operation: AnyOperation) -> Authorization | None:
        if not isinstance(operation, Capture | Release) or operation.attempt_id is None:
            return None
        return self._authorizations.get((operation.reservation_id.int, operation.attempt_id.int))

    def _decide_attempt(self, asked: AttemptRequest, at: datetime) -> AttemptOutcome | DomainRefusal:
        allocated = self._reservations.get(asked.reservation_id.int)
        if allocated is None:
            return refusals.reservation_not_found(asked.tenant_id, asked.reservation_id)
        known = self._authorizations.get((asked.reservation_id.int, asked.attempt_id.int))
        state = AttemptState(self.account, allocated, known, partial(self._holders, asked.reservation_id))
        if isinstance(asked, Authorize):
            return self._authorize(state, asked, at)
        if isinstance(asked, Void):
            return self._void(state, asked, at)
        after, outcome = attempt_decisions.withdraw(state, asked, at)
        self._keep(allocated, after)
        return outcome

    def _authorize(self, state: AttemptState, asked: Authorize, at: datetime) -> AttemptOutcome | DomainRefusal:
        after = attempt_decisions.authorize(state, asked, at)
        if isinstance(after, DomainRefusal):
            return after
        if after is not state.authorization:
            self._keep(state.allocated.authorize(asked.units, asked.snapshot_digest), after)
        return AttemptOutcome.AUTHORIZED

    def _void(self, state: AttemptState, asked: Void, at: datetime) -> AttemptOutcome | DomainRefusal:
        after = attempt_decisions.void(state, asked, at)
        if isinstance(after, DomainRefusal):
            return after
        allocated, before = state.allocated, state.authorization
        returned = before.authorized - after.authorized if before is not None else 0
        if returned and allocated.reservation.state is ReservationState.CLOSED:
            self._carry_out(attempt_decisions.void_of_closed(asked, returned), at)
            allocated = self._reservations[asked.reservation_id.int]  # what the release has left
        elif returned:
            allocated = allocated.reopen(returned)
        self._keep(allocated, after)
        return AttemptOutcome.VOIDED

    def _holders(self, reservation_id: UUID, asked: Positions) -> list[Authorization]:
        number = reservation_id.int
        return [self._authorizations[number, attempt] for attempt in self._taken[number].holders(asked)]

    def _keep(self, allocated: AllocatedReservation, authorization: Authorization | None) -> None:
        """Take over what a decision has made of a reservation, and of the attempt it was about."""
        number = allocated.reservation.reservation_id.int
        if allocated is not self._reservations.get(number):
            self._reservations[number] = allocated
            self._touched.add(number)
        if authorization is None:
            return
        name = authorization.name
        before = self._authorizations.get(name)
        if authorization is before:
            return
        if before is None or before.taken != authorization.taken:
            taken = self._taken[number]
            taken.give_back(name[1], before.taken if before is not None else ())
            taken.take(name[1], authorization.taken)
        self._authorizations[name] = authorization
        self._touched_authorizations.add(name)

    @property
    def reservation_numbers(self) -> dict[UUID, int]:
        """The numbers that the reservations asked about have in the database; 0 before they are written."""
        return {one.reservation.reservation_id: one.number for one in self._reservations.values()}

    @property
    def new_authorizations(self) -> list[Authorization]:
        """Attempts that the group has heard of first, as they are now."""
        new = self._touched_authorizations - self._loaded_authorizations
        return [self._authorizations[name] for name in sorted(new)]

    @property
    def changed_authorizations(self) -> list[Authorization]:
        """Attempts from before the group that it moved, as they are now."""
        changed = self._touched_authorizations & self._loaded_authorizations
        return [self._authorizations[name] for name in sorted(changed)]

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
