"""An independent model of the ledger: a bag of single credits, and for each recipient who may have sent to it."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import UTC, datetime

from bulksms_ledger.domain.accounts import SubscriptionStatus
from bulksms_ledger.domain.operations import (
    AdjustCredits,
    Capture,
    Close,
    ExpireLots,
    GrantCredits,
    Operation,
    Refund,
    Release,
    Reserve,
    SetSubscription,
)
from bulksms_ledger.domain.positions import Positions

START = datetime(2026, 1, 1, tzinfo=UTC)
UNKEPT = ("INVALID_ARGUMENT", "ATTEMPT_NOT_FOUND")


@dataclass
class Credit:
    """One credit of the model: where it came from and where it is. No sums are kept anywhere."""

    expires_at: datetime | None
    lot: int
    place: str = "available"  # available, captured, gone, or reserved or captured by the reservation of a number
    captured_by: int | None = None


@dataclass
class Attempt:
    """What was asked for, and the units of it that are still authorized; nothing of either of a tombstone."""

    asked: tuple[AbstractSet[int], int, bytes] | None = None
    authorized: int = 0
    released: int = 0
    moved: bool = True


@dataclass
class Reserved:
    units: int
    released: int = 0
    captured: int = 0
    refunded: int = 0
    closed: bool = False
    digest: bytes = b""
    attempts: dict[int, Attempt] = field(default_factory=dict)
    holders: dict[int, int] = field(default_factory=dict)  # by position
    accepted: set[int] = field(default_factory=set)  # positions that were captured

    @property
    def authorized(self) -> int:
        return sum(attempt.authorized for attempt in self.attempts.values())

    def unresolved(self, attempt: int) -> set[int]:
        return {position for position, holder in self.holders.items() if holder == attempt} - self.accepted


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

    def open(self, number: int) -> int:
        return self.count(f"reserved {number}") - self.reservations[number].authorized

    def spend(self, number: int, units: int) -> None:
        for _ in range(units):
            self.pick(f"reserved {number}", longest_lasting=False).place = f"captured {number}"
        self.reservations[number].captured += units

    def give_back(self, number: int, units: int) -> None:
        for _ in range(units):
            self.pick(f"reserved {number}", longest_lasting=True).place = "available"
        self.reservations[number].released += units

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
        if reason in UNKEPT:  # it leaves no trace
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

    def move(self, operation: Operation, number: int, reserved: Reserved) -> str:  # noqa: C901, PLR0911 - the same
        match operation:
            case Capture(attempt_id=attempt_id) | Release(attempt_id=attempt_id) if attempt_id is not None:
                return self.move_attempt(operation, number, reserved, int(attempt_id))
            case Capture() | Release() if reserved.closed:
                return "RESERVATION_STATE"
            case Capture(units=units) | Release(units=units) if self.open(number) < units:
                return "RESERVATION_EXCEEDED"
            case Capture(units=units):
                self.spend(number, units)
            case Release(units=units):
                self.give_back(number, units)
            case Close() if reserved.closed:
                return "RESERVATION_STATE"
            case Close() if operation.expected_captured != reserved.captured:
                return "CAPTURED_MISMATCH"
            case Close():
                self.give_back(number, self.open(number))
                reserved.closed = True
            case Refund(units=units):
                if reserved.captured - reserved.refunded < units:
                    return "REFUND_EXCEEDED"
                for _ in range(units):
                    self.pick(f"captured {number}", longest_lasting=True).place = "available"
                reserved.refunded += units
        return ""

    def move_attempt(self, operation: Operation, number: int, reserved: Reserved, name: int) -> str:  # noqa: PLR0911
        attempt = reserved.attempts.get(name)
        if attempt is None:
            return "ATTEMPT_NOT_FOUND"
        if isinstance(operation, Release):
            if operation.units > attempt.authorized:
                return "RESERVATION_EXCEEDED"
            attempt.authorized -= operation.units
            attempt.released += operation.units
            attempt.moved = True
            self.give_back(number, operation.units)
            return ""
        assert isinstance(operation, Capture)
        unresolved = reserved.unresolved(name)
        accepted = singly(operation.positions) or unresolved
        if name not in reserved.holders.values() or not accepted <= unresolved:
            return "ATTEMPT_ENDED"
        if operation.units > attempt.authorized:
            return "RESERVATION_EXCEEDED"
        if accepted == unresolved and operation.units < attempt.authorized:
            return "INVALID_ARGUMENT"
        reserved.accepted |= accepted
        attempt.authorized -= operation.units
        attempt.moved = True
        self.spend(number, operation.units)
        return ""

    def authorize(self, number: int, name: int, asked: tuple[AbstractSet[int], int, bytes]) -> str:  # noqa: PLR0911
        """The reason of a refusal, or "" when it may send."""
        positions, units, digest = asked
        reserved = self.reservations.get(number)
        if reserved is None:
            return "RESERVATION_NOT_FOUND"
        if (known := reserved.attempts.get(name)) is not None:
            if known.moved:
                return "ATTEMPT_ENDED"
            return "" if known.asked == asked else "REQUEST_ID_REUSED"
        if reserved.digest not in (b"", digest):
            return "SNAPSHOT_MISMATCH"
        if reserved.holders.keys() & positions:
            return "POSITIONS_TAKEN"
        if reserved.closed:
            return "RESERVATION_STATE"
        if not self.active or (self.active_until is not None and self.active_until <= self.now):
            return "SUBSCRIPTION_INACTIVE"
        if self.open(number) < units:
            return "RESERVATION_EXCEEDED"
        reserved.digest = digest
        reserved.attempts[name] = Attempt(asked, units, moved=False)
        reserved.holders |= dict.fromkeys(positions, name)
        return ""

    def withdraw(self, number: int, name: int) -> str:
        """What is known of the attempt, or the reason why nothing is."""
        reserved = self.reservations.get(number)
        if reserved is None:
            return "RESERVATION_NOT_FOUND"
        reserved.attempts.setdefault(name, Attempt())
        return "AUTHORIZED" if name in reserved.holders.values() else "WITHDRAWN"

    def void(self, number: int, name: int, positions: AbstractSet[int], units: int) -> str:  # noqa: PLR0911
        """The reason of a refusal, or ""."""
        reserved = self.reservations.get(number)
        if reserved is None:
            return "RESERVATION_NOT_FOUND"
        attempt = reserved.attempts.setdefault(name, Attempt())
        held = {position for position, holder in reserved.holders.items() if holder == name}
        if (positions or held) & held & reserved.accepted:
            return "ATTEMPT_CAPTURED"
        freed = positions & held if positions else held
        if positions and freed:
            if freed != positions:
                return "INVALID_ARGUMENT"
            if units > attempt.authorized + attempt.released:
                return "RESERVATION_EXCEEDED"
            if units < attempt.authorized and not reserved.unresolved(name) - freed:
                return "INVALID_ARGUMENT"
        returned = min(units, attempt.authorized) if positions else attempt.authorized
        if not freed:
            return ""
        reserved.holders = {position: holder for position, holder in reserved.holders.items() if position not in freed}
        attempt.authorized -= returned
        attempt.moved = True
        if reserved.closed and returned:
            self.expire()
            self.give_back(number, returned)
            self.expire()
        return ""


def singly(positions: Positions) -> set[int]:
    """Positions one by one."""
    return {position for first, end in positions for position in range(first, end)}
