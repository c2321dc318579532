"""The rules against an independent model: whatever is asked in whatever order, both say the same."""

from __future__ import annotations

import os
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID

import msgspec
import pytest
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from bulksms_ledger.domain.account_session import AccountSession
from bulksms_ledger.domain.accounts import Account, SubscriptionStatus
from bulksms_ledger.domain.attempts import AttemptOutcome, AttemptRequest, Authorize, Void, Withdraw
from bulksms_ledger.domain.authorizations import Authorization, Name
from bulksms_ledger.domain.entries import Entry
from bulksms_ledger.domain.lots import Lot
from bulksms_ledger.domain.operations import (
    AdjustCredits,
    AnyOperation,
    Capture,
    Close,
    ExpireLots,
    GrantCredits,
    Operation,
    OperationResult,
    Outcome,
    RecordedOperation,
    Refund,
    Release,
    Reserve,
    SetSubscription,
    encode_outcome,
)
from bulksms_ledger.domain.positions import Positions, merge
from bulksms_ledger.domain.refusals import DomainRefusal
from bulksms_ledger.domain.reservations import AllocatedReservation
from bulksms_ledger.domain.verification import StoredLot, Verification

from .ledger_model import START, UNKEPT, Model, singly

pytestmark = pytest.mark.slow

UNITS = st.integers(1, 30)
FEW_UNITS = st.integers(1, 8)
# Few of them, so that operations meet. Mostly a new request id; now and then one that has been used.
RESERVATIONS = st.integers(0, 2)
REQUESTS = st.sampled_from([*[None] * 12, 0, 1])
ATTEMPTS = st.sampled_from([1, 1, 2, 2, 3, 4])
NEW_ATTEMPTS = st.integers(1, 8)
ATTEMPTED = st.sampled_from([*[0] * 8, 1, 2])  # reservations
POSITIONS = st.frozensets(st.integers(0, 7), min_size=1, max_size=5)


def ranges(positions: Iterable[int]) -> Positions:
    return merge((position, position + 1) for position in positions)


class LedgerMachine(RuleBasedStateMachine):
    """Drives a session and the model together."""

    @initialize()
    def open(self) -> None:
        self.model = Model()
        self.requests = 0
        self.session = AccountSession(Account("acme", START), lots=(), reservations=(), operations=(), source_refs=())
        # What earlier groups have left in the database.
        self.entries: list[Entry] = []
        self.recorded: dict[UUID, RecordedOperation] = {}
        self.lots: dict[int, StoredLot] = {}
        self.reservations: dict[UUID, AllocatedReservation] = {}
        self.authorizations: dict[Name, Authorization] = {}
        self.first_answers: dict[UUID, tuple[Operation, Outcome]] = {}
        self.operate(
            SetSubscription(UUID(int=10**6), "acme", SubscriptionStatus.ACTIVE, None, "signed up"),
        )
        # Two lots and a reservation across both: the interesting things come after these, and may come at once.
        self.operate(GrantCredits(UUID(int=10**6 + 1), "acme", 20, expires_at=START + timedelta(hours=4)))
        self.operate(GrantCredits(UUID(int=10**6 + 2), "acme", 40))
        self.operate(Reserve(UUID(int=10**6 + 3), "acme", UUID(int=0), 30, "campaign"), 0)
        # Of two attempts one has been accepted in part.
        self.authorize(0, 1, frozenset({0, 1, 2}), 0, b"a")
        self.authorize(0, 2, frozenset({4, 5}), 0, b"a")
        self.operate(
            Capture(UUID(int=10**6 + 4), "acme", UUID(int=0), 1, attempt_id=UUID(int=1), positions=ranges({1})), 0
        )

    def write(self) -> None:
        """Do to what is stored what the group has come to."""
        self.entries += self.session.entries
        self.recorded |= {recorded.operation.request_id: recorded for recorded in self.session.recorded}
        for entry, available in self.session.new_lots:
            self.lots[entry.version] = (entry.units, available, entry.expires_at)
        for lot in self.session.changed_lots:
            units, _, expires_at = self.lots[lot.version]
            self.lots[lot.version] = (units, lot.available, expires_at)
        self.reservations |= {one.reservation.reservation_id: one for one in self.session.changed_reservations}
        assert not {one.name for one in self.session.new_authorizations} & self.authorizations.keys()
        self.authorizations = self.stored_authorizations()

    @rule()
    def begin_a_group(self) -> None:
        """The next group is decided on what is stored."""
        self.write()
        open_lots = [Lot(version, end, left) for version, (_, left, end) in self.lots.items() if left]
        self.session = AccountSession(
            self.session.account,
            lots=tuple(
                sorted(open_lots, key=lambda lot: (lot.expires_at or datetime.max.replace(tzinfo=UTC), lot.version))
            ),
            reservations=self.reservations.values(),
            operations=self.recorded.values(),
            source_refs=[entry.source_ref for entry in self.entries if entry.source_ref],
            authorizations=self.authorizations.values(),
        )

    def stored_authorizations(self) -> dict[Name, Authorization]:
        """As they are once the group has been written."""
        moved = [*self.session.changed_authorizations, *self.session.new_authorizations]
        return self.authorizations | {one.name: one for one in moved}

    def operate(self, operation: AnyOperation, number: int = -1) -> None:
        decision = self.session.decide(operation, self.model.now)
        reason = decision.outcome.reason.value if isinstance(decision.outcome, DomainRefusal) else ""
        known = self.first_answers.get(operation.request_id)
        if known is not None and known[0] == operation:
            assert decision.replayed
            assert decision.outcome == known[1]
        elif known is not None:
            assert (decision.replayed, reason) == (False, "REQUEST_ID_REUSED")
        else:
            assert not decision.replayed
            event(f"{type(operation).__name__} {reason}")
            assert reason == self.model.decide(operation, number)
            stored = encode_outcome(decision.outcome)
            assert msgspec.json.decode(stored, type=Outcome) == decision.outcome
            if reason not in UNKEPT:
                self.first_answers[operation.request_id] = (operation, decision.outcome)

    @rule(
        request=REQUESTS, units=UNITS, ref=st.sampled_from(["", "", "a", "b"]), hours=st.sampled_from([None, -1, 1, 5])
    )
    def grant(self, request: int | None, units: int, ref: str, hours: int | None) -> None:
        expires_at = None if hours is None else self.model.now + timedelta(hours=hours)
        self.operate(GrantCredits(self.request_id(request), "acme", units, ref, expires_at))

    @rule(request=REQUESTS, units=st.integers(1, 10).flatmap(lambda units: st.sampled_from([units, -units])))
    def adjust(self, request: int | None, units: int) -> None:
        self.operate(AdjustCredits(self.request_id(request), "acme", units, "counted anew"))

    @rule(
        request=REQUESTS,
        status=st.sampled_from([*[SubscriptionStatus.ACTIVE] * 3, SubscriptionStatus.SUSPENDED]),
        hours=st.sampled_from([None, 1, 5]),
    )
    def subscribe(self, request: int | None, status: SubscriptionStatus, hours: int | None) -> None:
        until = None if hours is None else self.model.now + timedelta(hours=hours)
        self.operate(SetSubscription(self.request_id(request), "acme", status, until, "changed"))

    @rule(request=REQUESTS, number=RESERVATIONS, units=UNITS)
    def reserve(self, request: int | None, number: int, units: int) -> None:
        self.operate(Reserve(self.request_id(request), "acme", UUID(int=number), units, "campaign"), number)

    @rule(request=REQUESTS, number=RESERVATIONS, units=FEW_UNITS)
    def capture(self, request: int | None, number: int, units: int) -> None:
        self.operate(Capture(self.request_id(request), "acme", UUID(int=number), units), number)

    @rule(request=REQUESTS, number=RESERVATIONS, units=FEW_UNITS)
    def release(self, request: int | None, number: int, units: int) -> None:
        self.operate(Release(self.request_id(request), "acme", UUID(int=number), units), number)

    def ask(self, request: AttemptRequest) -> DomainRefusal | AttemptOutcome:
        decision = self.session.decide(request, self.model.now)  # type: ignore[arg-type]
        assert not decision.replayed
        assert isinstance(decision.outcome, DomainRefusal | AttemptOutcome)
        what = decision.outcome.reason.value if isinstance(decision.outcome, DomainRefusal) else ""
        event(f"{type(request).__name__} {what}")
        return decision.outcome

    @rule(
        number=ATTEMPTED,
        attempt=NEW_ATTEMPTS,
        positions=POSITIONS,
        more=st.sampled_from([0, 0, 0, 1]),
        digest=st.sampled_from([*[b"a"] * 5, b"b"]),
    )
    def authorize(self, number: int, attempt: int, positions: AbstractSet[int], more: int, digest: bytes) -> None:
        units = len(positions) + more
        asked = Authorize("acme", UUID(int=number), UUID(int=attempt), "campaign", 0, digest, ranges(positions), units)
        outcome = self.ask(asked)
        expected = self.model.authorize(number, attempt, (positions, units, digest))
        if expected == "":
            assert outcome is AttemptOutcome.AUTHORIZED
            return
        assert isinstance(outcome, DomainRefusal)
        assert outcome.reason.value == expected
        if expected == "POSITIONS_TAKEN":
            reserved = self.model.reservations[number]
            taken = positions & reserved.holders.keys()
            assert singly(outcome.captured) == taken & reserved.accepted
            assert singly(outcome.unresolved) == taken - reserved.accepted

    @rule(number=ATTEMPTED, attempt=ATTEMPTS)
    def withdraw(self, number: int, attempt: int) -> None:
        outcome = self.ask(Withdraw("acme", UUID(int=number), UUID(int=attempt)))
        named = outcome.reason.value if isinstance(outcome, DomainRefusal) else outcome.name
        assert named == self.model.withdraw(number, attempt)

    @rule(
        number=ATTEMPTED,
        attempt=ATTEMPTS,
        positions=POSITIONS,
        some=st.sampled_from([False, False, True]),
        fewer=st.sampled_from([0, 0, 1]),
    )
    def void(self, number: int, attempt: int, positions: AbstractSet[int], some: bool, fewer: int) -> None:
        named = positions if some else frozenset()
        units = max(1, len(positions) - fewer) if some else 0
        outcome = self.ask(Void("acme", UUID(int=number), UUID(int=attempt), ranges(named), units))
        expected = self.model.void(number, attempt, named, units)
        if expected == "":
            assert outcome is AttemptOutcome.VOIDED
        else:
            assert isinstance(outcome, DomainRefusal)
            assert outcome.reason.value == expected

    @rule(request=REQUESTS, number=ATTEMPTED, attempt=ATTEMPTS, of_it=st.randoms(use_true_random=False))
    def capture_of_an_attempt(self, request: int | None, number: int, attempt: int, of_it: Random) -> None:
        """Whole, or some of its positions, mostly with as many credits."""
        reserved = self.model.reservations.get(number)
        unresolved = sorted(reserved.unresolved(attempt)) if reserved else []
        known = reserved.attempts.get(attempt) if reserved else None
        some = of_it.sample(unresolved, of_it.randint(0, len(unresolved)))
        units = len(some) or (known.authorized if known else 0) or 1
        positions = ranges({*some, of_it.randint(0, 7)} if some and of_it.random() < 0.1 else some)
        id_ = self.request_id(request)
        self.operate(Capture(id_, "acme", UUID(int=number), units, None, UUID(int=attempt), positions), number)

    @rule(request=REQUESTS, number=ATTEMPTED, attempt=ATTEMPTS, units=st.integers(1, 3))
    def release_of_an_attempt(self, request: int | None, number: int, attempt: int, units: int) -> None:
        id_ = self.request_id(request)
        self.operate(Release(id_, "acme", UUID(int=number), units, "nobody knows", UUID(int=attempt)), number)

    @rule(request=REQUESTS, number=RESERVATIONS, off=st.sampled_from([0, 0, 0, 1]))
    def close(self, request: int | None, number: int, off: int) -> None:
        reserved = self.model.reservations.get(number)
        self.operate(
            Close(self.request_id(request), "acme", UUID(int=number), (reserved.captured if reserved else 0) + off),
            number,
        )

    @rule(request=REQUESTS, number=RESERVATIONS, units=FEW_UNITS)
    def refund(self, request: int | None, number: int, units: int) -> None:
        self.operate(Refund(self.request_id(request), "acme", UUID(int=number), units, "complaint"), number)

    @rule(request=REQUESTS)
    def expire(self, request: int | None) -> None:
        self.operate(ExpireLots(self.request_id(request), "acme"))

    @rule(back=st.integers(1, 30))
    def repeat(self, back: int) -> None:
        """A request that has been made before, as it was."""
        made = list(self.first_answers.values())
        self.operate(made[-min(back, len(made))][0])

    def request_id(self, back: int | None) -> UUID:
        """A new request id, or one of the first ones."""
        if back is None or back >= len(self.first_answers):
            self.requests += 1
            return UUID(int=self.requests)
        return list(self.first_answers)[back]

    @rule(hours=st.integers(1, 3))
    def wait(self, hours: int) -> None:
        self.model.now += timedelta(hours=hours)

    @invariant()
    def both_say_the_same(self) -> None:
        account, model = self.session.account, self.model
        reserved = sum(model.count(f"reserved {number}") for number in model.reservations)
        captured = sum(model.count(f"captured {number}") for number in model.reservations)
        assert (account.available, account.reserved, account.captured) == (model.count("available"), reserved, captured)
        assert account.balance(model.now).granted == sum(credit.place != "gone" for credit in model.credits)
        changed = [one.reservation for one in self.session.changed_reservations]
        stored = {int(id_): one.reservation for id_, one in self.reservations.items()}
        stored |= {int(reservation.reservation_id): reservation for reservation in changed}
        assert stored.keys() == model.reservations.keys()
        for number, expected in model.reservations.items():
            reservation = stored[number]
            parts = reservation.open + reservation.authorized + reservation.captured + reservation.released
            assert reservation.units == expected.units == parts
            assert (reservation.open, reservation.authorized) == (model.open(number), expected.authorized)
            assert (reservation.captured, reservation.released) == (expected.captured, expected.released)
            assert reservation.refunded == expected.refunded

    @invariant()
    def nobody_is_authorized_twice(self) -> None:
        stored = self.stored_authorizations()
        held: dict[tuple[int, int], int] = {}
        for (number, attempt), one in stored.items():
            assert one.units == one.authorized + one.captured + one.released + one.voided
            assert one.authorized == self.model.reservations[number].attempts[attempt].authorized
            assert singly(one.captured_positions) == singly(one.taken) & self.model.reservations[number].accepted
            taken = {(number, position): attempt for position in singly(one.taken)}
            assert not held.keys() & taken.keys()
            held |= taken
        assert held == {
            (number, position): attempt
            for number, reserved in self.model.reservations.items()
            for position, attempt in reserved.holders.items()
        }
        assert stored.keys() == {
            (number, attempt) for number, reserved in self.model.reservations.items() for attempt in reserved.attempts
        }

    def teardown(self) -> None:
        """Everything is recomputed from the entries alone, to the bit."""
        if not hasattr(self, "session"):
            return
        self.write()
        verification = Verification("acme")
        for entry in self.entries:
            verification.read(entry, entry.postings, on_record=entry.request_id in self.recorded)
        verification.forget_matching({id_: self.reservations[id_] for id_ in verification.take_closed()})
        verification.compare_reservations(verification.remaining, self.reservations)
        verification.compare(self.session.account, self.lots, len(self.reservations))
        assert verification.differences == []
        assert isinstance(next(iter(self.first_answers.values()))[1], OperationResult)


# BULKSMS_LEDGER_EXAMPLES=2000 is the nightly run; the default is the same sequences every time.
LedgerMachine.TestCase.settings = settings(
    max_examples=int(os.environ.get("BULKSMS_LEDGER_EXAMPLES", "250")),
    stateful_step_count=40,
    derandomize="BULKSMS_LEDGER_EXAMPLES" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestTheLedgerAgreesWithItsModel = LedgerMachine.TestCase
