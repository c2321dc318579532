"""The rules against an independent model: whatever is asked in whatever order, both say the same."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
import pytest
from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from bulksms_ledger.domain.account_session import AccountSession
from bulksms_ledger.domain.accounts import Account, SubscriptionStatus
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
from bulksms_ledger.domain.refusals import DomainRefusal
from bulksms_ledger.domain.reservations import AllocatedReservation
from bulksms_ledger.domain.verification import StoredLot, Verification

pytestmark = pytest.mark.slow

START = datetime(2026, 1, 1, tzinfo=UTC)
UNITS = st.integers(1, 30)
FEW_UNITS = st.integers(1, 8)
# Few of them, so that operations meet. Mostly a new request id; now and then one that has been used.
RESERVATIONS = st.integers(0, 2)
REQUESTS = st.sampled_from([*[None] * 12, 0, 1])


@dataclass
class Credit:
    """One credit of the model: where it came from and where it is. No sums are kept anywhere."""

    expires_at: datetime | None
    lot: int
    place: str = "available"  # available, captured, gone, or reserved or captured by the reservation of a number
    captured_by: int | None = None


@dataclass
class Reserved:
    units: int
    released: int = 0
    captured: int = 0
    refunded: int = 0
    closed: bool = False


@dataclass
class Model:
    """The ledger as a bag of single credits."""

    now: datetime = START
    active: bool = False
    active_until: datetime | None = None
    credits: list[Credit] = field(default_factory=list)
    reservations: dict[int, Reserved] = field(default_factory=dict)
    refs: set[str] = field(default_factory=set)
    lots: int = 0

    def count(self, place: str) -> int:
        return sum(credit.place == place for credit in self.credits)

    def pick(self, place: str, *, longest_lasting: bool) -> Credit:
        """The credit that is used next, or given back next, among those in a place."""
        far = datetime.max.replace(tzinfo=UTC)
        there = [credit for credit in self.credits if credit.place == place]
        return (max if longest_lasting else min)(there, key=lambda credit: (credit.expires_at or far, credit.lot))

    def expire(self) -> None:
        for credit in self.credits:
            if credit.place == "available" and credit.expires_at is not None and credit.expires_at <= self.now:
                credit.place = "gone"

    def bring(self, units: int, expires_at: datetime | None) -> None:
        self.lots += 1
        self.credits += [Credit(expires_at, self.lots) for _ in range(units)]

    def decide(self, operation: Operation, number: int) -> str:
        """The reason of a refusal, or "" when it is done."""
        places = [credit.place for credit in self.credits]
        self.expire()
        reason = self.do(operation, number)
        if reason == "INVALID_ARGUMENT":  # it leaves no trace
            for credit, place in zip(self.credits, places, strict=True):
                credit.place = place
            return reason
        self.expire()
        return reason

    def do(self, operation: Operation, number: int) -> str:  # noqa: C901, PLR0911, PLR0912 - one arm an operation
        reserved = self.reservations.get(number)
        match operation:
            case SetSubscription():
                self.active = operation.status is SubscriptionStatus.ACTIVE
                self.active_until = operation.active_until
            case GrantCredits():
                if operation.source_ref and operation.source_ref in self.refs:
                    return "SOURCE_REF_USED"
                if operation.expires_at is not None and operation.expires_at <= self.now:
                    return "INVALID_ARGUMENT"
                self.refs.add(operation.source_ref)
                self.bring(operation.units, operation.expires_at)
            case AdjustCredits(units=units) if units > 0:
                self.bring(units, None)
            case AdjustCredits(units=units):
                if self.count("available") < -units:
                    return "INSUFFICIENT_CREDITS"
                for _ in range(-units):
                    self.pick("available", longest_lasting=False).place = "gone"
            case Reserve():
                if reserved is not None:
                    return "RESERVATION_EXISTS"
                if not self.active or (self.active_until is not None and self.active_until <= self.now):
                    return "SUBSCRIPTION_INACTIVE"
                if self.count("available") < operation.units:
                    return "INSUFFICIENT_CREDITS"
                for _ in range(operation.units):
                    self.pick("available", longest_lasting=False).place = f"reserved {number}"
                self.reservations[number] = Reserved(operation.units)
            case ExpireLots():
                pass
            case _ if reserved is None:
                return "RESERVATION_NOT_FOUND"
            case _:
                return self.move(operation, number, reserved)
        return ""

    def move(self, operation: Operation, number: int, reserved: Reserved) -> str:  # noqa: C901, PLR0912 - the same
        open_place = f"reserved {number}"
        match operation:
            case Capture() | Release() if reserved.closed:
                return "RESERVATION_STATE"
            case Capture(units=units) | Release(units=units) if self.count(open_place) < units:
                return "RESERVATION_EXCEEDED"
            case Capture(units=units):
                for _ in range(units):
                    self.pick(open_place, longest_lasting=False).place = f"captured {number}"
                reserved.captured += units
            case Release(units=units):
                for _ in range(units):
                    self.pick(open_place, longest_lasting=True).place = "available"
                reserved.released += units
            case Close() if reserved.closed:
                return "RESERVATION_STATE"
            case Close() if operation.expected_captured != reserved.captured:
                return "CAPTURED_MISMATCH"
            case Close():
                reserved.released += self.count(open_place)
                for credit in self.credits:
                    credit.place = "available" if credit.place == open_place else credit.place
                reserved.closed = True
            case Refund(units=units):
                if reserved.captured - reserved.refunded < units:
                    return "REFUND_EXCEEDED"
                for _ in range(units):
                    self.pick(f"captured {number}", longest_lasting=True).place = "available"
                reserved.refunded += units
        return ""


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
        self.first_answers: dict[UUID, tuple[Operation, Outcome]] = {}
        self.operate(
            SetSubscription(UUID(int=10**6), "acme", SubscriptionStatus.ACTIVE, None, "signed up"),
        )
        # Two lots and a reservation across both: the interesting things come after these, and may come at once.
        self.operate(GrantCredits(UUID(int=10**6 + 1), "acme", 20, expires_at=START + timedelta(hours=4)))
        self.operate(GrantCredits(UUID(int=10**6 + 2), "acme", 40))
        self.operate(Reserve(UUID(int=10**6 + 3), "acme", UUID(int=0), 30, "campaign"), 0)

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
        )

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
            if reason != "INVALID_ARGUMENT":
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
            assert reservation.units == expected.units == reservation.open + reservation.captured + reservation.released
            assert reservation.open == model.count(f"reserved {number}")
            assert (reservation.captured, reservation.released) == (expected.captured, expected.released)
            assert reservation.refunded == expected.refunded

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
    max_examples=int(os.environ.get("BULKSMS_LEDGER_EXAMPLES", "150")),
    stateful_step_count=40,
    derandomize="BULKSMS_LEDGER_EXAMPLES" not in os.environ,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestTheLedgerAgreesWithItsModel = LedgerMachine.TestCase
