"""Groups decided before the account is locked: written only where what they were decided on has come true."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC, timedelta
from uuid import UUID

import asyncpg
import pytest
from pydantic import SecretStr

from bulksms_ledger.accounts import Account, SubscriptionStatus
from bulksms_ledger.bookkeeping import Bookkeeper
from bulksms_ledger.books import Book
from bulksms_ledger.desks import Desk
from bulksms_ledger.drafts import Draft, make_draft, make_draft_ahead
from bulksms_ledger.operations import (
    Answer,
    AnyOperation,
    Capture,
    CreateAccount,
    Decision,
    GrantCredits,
    Release,
    Reserve,
    SetSubscription,
)
from bulksms_ledger.refusals import Refusal, RefusalReason
from bulksms_ledger.settings import Settings
from bulksms_ledger.storage.connections import open_database
from bulksms_ledger.storage.verifying import verify_account
from servicekit.clock import ManualClock
from servicekit.database import Database
from servicekit.settings import load

from .ledger_support import Tenant, refused
from .test_ledger_verification import behind_the_ledgers_back

HELD = UUID(int=1 << 64)
SUBSCRIBED = (SubscriptionStatus.ACTIVE, None, "signed up")
_numbers = itertools.count(2 << 64)


def new_id() -> UUID:
    return UUID(int=next(_numbers))


def capture(units: int = 1, request_id: UUID | None = None) -> Capture:
    return Capture(request_id or new_id(), "acme", HELD, units)


def opening(units: int) -> list[AnyOperation]:
    return [
        SetSubscription(new_id(), "acme", *SUBSCRIBED),
        GrantCredits(new_id(), "acme", units),
        Reserve(new_id(), "acme", HELD, units),
    ]


def captured(decision: Decision) -> int:
    assert isinstance(decision.outcome, Answer)
    assert decision.outcome.reservation is not None
    return decision.outcome.reservation.captured


def reason(decision: Decision) -> RefusalReason | None:
    return decision.outcome.reason if isinstance(decision.outcome, Refusal) else None


class TestTwoProcesses:
    """On one account, each with a memory of its own."""

    @pytest.fixture
    async def databases(self, ledger_url: str) -> AsyncIterator[list[Database]]:
        settings = load(Settings, database_url=SecretStr(ledger_url))
        made = [open_database(settings) for _ in range(2)]
        yield made
        for database in made:
            await database.stop()

    @pytest.fixture
    async def keepers(self, databases: list[Database], clock: ManualClock) -> list[Bookkeeper]:
        keepers = [Bookkeeper(database, clock) for database in databases]
        await keepers[0].create_account(CreateAccount(new_id(), "acme"))
        await keepers[0].decide("acme", opening(10_000))
        return keepers

    async def holds(self, database: Database, expected_captured: int) -> None:
        verification = await verify_account(database, "acme")
        assert verification is not None
        assert verification.differences == []
        async with database.connect() as connection:
            row = await connection.exec_driver_sql("SELECT captured FROM accounts")
            assert row.scalar_one() == expected_captured

    @pytest.mark.parametrize("size", [1, 30, 700])
    async def test_each_sees_what_the_other_has_written(
        self, keepers: list[Bookkeeper], databases: list[Database], size: int
    ) -> None:
        total = 0
        for turn in [0, 0, 0, 1, 0, 1, 1, 1, 0]:
            decisions = await keepers[turn].decide("acme", [capture() for _ in range(size)])
            assert [captured(decision) for decision in decisions] == list(range(total + 1, total + size + 1))
            total += size
        await self.holds(databases[0], total)

    @pytest.mark.parametrize("size", [1, 30, 700])
    async def test_a_request_id_used_by_the_other_is_told_from_new_ones(
        self, keepers: list[Bookkeeper], databases: list[Database], size: int
    ) -> None:
        first = await keepers[0].decide("acme", [capture()])
        used = capture(5)
        [answer] = await keepers[1].decide("acme", [used])
        await keepers[0].decide("acme", [capture()])
        await keepers[0].decide("acme", [capture()])  # this one is ahead, and so is the next
        group = [*(capture() for _ in range(size - 1)), used, capture(6, used.request_id)]
        *_, again, other = await keepers[0].decide("acme", group)
        assert (again.replayed, again.outcome) == (True, answer.outcome)
        assert (other.replayed, reason(other)) == (False, RefusalReason.REQUEST_ID_REUSED)
        await self.holds(databases[0], captured(first[0]) + 5 + 2 + size - 1)

    @pytest.mark.parametrize("size", [1, 30, 700])
    async def test_what_the_other_has_set_is_not_written_over(
        self, keepers: list[Bookkeeper], ledger_url: str, size: int
    ) -> None:
        for _ in range(3):
            await keepers[0].decide("acme", [capture() for _ in range(size)])
        later = SetSubscription(new_id(), "acme", SubscriptionStatus.SUSPENDED, None, "unpaid")
        await keepers[1].decide("acme", [later])
        for _ in range(3):
            await keepers[0].decide("acme", [capture() for _ in range(size)])
        connection = await asyncpg.connect(ledger_url)
        try:
            assert await connection.fetchval("SELECT subscription_reason FROM accounts") == "unpaid"
        finally:
            await connection.close()
        [refused] = await keepers[0].decide("acme", [Reserve(new_id(), "acme", new_id(), 1)])
        assert reason(refused) is RefusalReason.SUBSCRIPTION_INACTIVE

    async def test_groups_decided_on_a_group_that_is_decided_again_are_decided_again_as_well(
        self, keepers: list[Bookkeeper], databases: list[Database]
    ) -> None:
        keeper = keepers[0]
        await keeper.decide("acme", [capture()])
        await keeper.decide("acme", [capture()])
        used = capture(7)
        # The first of them is ahead but has a request id that the database knows; the others build upon it.
        [known] = await keepers[1].decide("acme", [used])
        await keeper.decide("acme", [capture()])
        groups = [[used, *(capture() for _ in range(600))] for _ in range(4)]
        answers = await asyncio.gather(*(keeper.decide("acme", group) for group in groups))
        assert [decision.outcome for decision, *_ in answers] == [known.outcome] * 4
        every = [captured(decision) for _, *decisions in answers for decision in decisions]
        assert every == list(range(11, 11 + 2400))
        await self.holds(databases[0], 10 + 2400)

    async def test_a_lone_capture_is_a_transaction_of_its_own_even_when_it_is_refused(
        self, keepers: list[Bookkeeper], databases: list[Database]
    ) -> None:
        keeper = keepers[0]
        await keeper.decide("acme", [capture()])
        [refused] = await keeper.decide("acme", [too_many := capture(20_000)])
        [taken] = await keeper.decide("acme", [capture()])
        [again] = await keeper.decide("acme", [too_many])
        assert (reason(refused), captured(taken)) == (RefusalReason.RESERVATION_EXCEEDED, 2)
        assert (again.replayed, again.outcome) == (True, refused.outcome)
        await self.holds(databases[0], 2)


async def test_accounts_nobody_asks_for_any_more_are_forgotten(ledger_url: str, clock: ManualClock) -> None:
    database = open_database(load(Settings, database_url=SecretStr(ledger_url)))
    try:
        keeper = Bookkeeper(database, clock)
        for name in ("a", "b", "c"):
            await keeper.create_account(CreateAccount(new_id(), name))
            await keeper.decide(name, [GrantCredits(new_id(), name, 1)])
        assert keeper.accounts_in_memory == 3
        clock.advance(timedelta(seconds=1))
        await keeper.decide("b", [GrantCredits(new_id(), "b", 1)])
        assert keeper.accounts_in_memory == 1
    finally:
        await database.stop()


async def test_a_capture_recorded_by_the_release_before_is_replayed_and_told_from_others(
    tenant: Tenant, ledger_url: str
) -> None:
    await tenant.open(100)
    reservation_id = (await tenant.reserve(50)).reservation.reservation_id
    request = tenant.capture_request(reservation_id, 7)
    first = await tenant.stub.Capture(request)
    await tenant.release(reservation_id, 1)
    # What releases before migration 0003 kept of it.
    evidence = {"batch_id": "batch-1", "epoch": 1, "bulk_id": "bulk-1", "accepted_count": 7, "parts": 7}
    content = {
        "operation": "Capture",
        "request_id": request.request_id,
        "tenant_id": "acme",
        "reservation_id": reservation_id,
        "units": 7,
        "evidence": evidence,
    }
    reservation = {
        "reservation_id": reservation_id,
        "tenant_id": "acme",
        "campaign_id": "",
        "units": 50,
        "open": 43,
        "opened_version": 2,
        "created_at": first.reservation.created_at.ToDatetime(UTC).isoformat(),
        "pins": [{"lot": 1, "expires_at": None, "open": 43, "captured": 7}],
        "captured": 7,
    }
    await behind_the_ledgers_back(
        ledger_url,
        "UPDATE operations SET content = $2, outcome = $3, told_by = NULL, captured = NULL, released = NULL, "
        "refunded = NULL WHERE request_id = $1",
        UUID(request.request_id),
        json.dumps(content),
        json.dumps({"outcome": "answer", "reservation": reservation}),
    )
    again = await tenant.stub.Capture(request)
    assert again.replayed
    again.replayed = False
    assert again == first
    request.units = 8
    assert "units" in (await refused(tenant.stub.Capture(request))).metadata["differs"]
    assert (await tenant.verify()).consistent


class TestDesk:
    """What one account's groups leave in memory."""

    @pytest.fixture
    def account(self, clock: ManualClock) -> Account:
        return Account("acme", clock.now())

    @pytest.fixture
    def read(self, account: Account, clock: ManualClock) -> Callable[[], Book]:
        """The account as stored, with a reservation of 100."""

        def read() -> Book:
            book = Book(account, lots=(), holds=(), operations=(), source_refs=())
            for operation in opening(100):
                book.decide(operation, clock.now())
            return Book(book.account, lots=(), holds=book.changed_holds, operations=(), source_refs=())

        return read

    async def settled(self, desk: Desk, book: Book, clock: ManualClock) -> Draft:
        draft = await make_draft(desk.recall(book, clock.monotonic()), [capture()], clock.now())
        desk.settle(draft)
        return draft

    async def ahead(self, desk: Desk, operations: list[AnyOperation], clock: ManualClock) -> Draft | None:
        base = desk.take_for(operations, clock.monotonic())
        if base is None:
            return None
        draft = await make_draft_ahead(base, operations, clock.now())
        desk.decided(draft.book)
        return draft

    async def test_what_a_group_leaves_is_decided_on_once(self, read: Callable[[], Book], clock: ManualClock) -> None:
        desk = Desk()
        await self.settled(desk, read(), clock)
        assert desk.take_for([capture()], clock.monotonic()) is not None
        assert desk.take_for([capture()], clock.monotonic()) is None

    async def test_only_what_is_asked_of_reservations_in_memory_is_decided_ahead(
        self, read: Callable[[], Book], clock: ManualClock
    ) -> None:
        desk = Desk()
        await self.settled(desk, read(), clock)
        for other in (
            Reserve(new_id(), "acme", new_id(), 1),
            GrantCredits(new_id(), "acme", 1),
            Release(new_id(), "acme", new_id(), 1),
        ):
            assert desk.take_for([capture(), other], clock.monotonic()) is None
        assert desk.take_for([capture(), Release(new_id(), "acme", HELD, 1)], clock.monotonic()) is not None

    async def test_a_book_is_read_anew_after_a_second(self, read: Callable[[], Book], clock: ManualClock) -> None:
        desk = Desk()
        await self.settled(desk, read(), clock)
        assert await self.ahead(desk, [capture()], clock) is not None
        clock.advance(timedelta(seconds=1))
        assert await self.ahead(desk, [capture()], clock) is None

    async def test_a_group_comes_true_only_if_the_one_before_was_committed(
        self, read: Callable[[], Book], clock: ManualClock
    ) -> None:
        desk = Desk()
        await self.settled(desk, read(), clock)
        # Refusals only: the account's row is the same before and after them, so it could not tell.
        first = await self.ahead(desk, [capture(1000)], clock)
        second = await self.ahead(desk, [capture()], clock)
        assert first is not None
        assert second is not None
        assert first.book.account == second.base.account if second.base else False
        assert desk.may_come_true(first)
        assert not desk.may_come_true(second)
        desk.settle(first)
        assert desk.may_come_true(second)

    async def test_nothing_comes_true_after_a_failure(self, read: Callable[[], Book], clock: ManualClock) -> None:
        desk = Desk()
        await self.settled(desk, read(), clock)
        draft = await self.ahead(desk, [capture()], clock)
        assert draft is not None
        desk.forget()
        assert not desk.may_come_true(draft)

    async def test_where_another_process_is_at_the_account_nothing_is_decided_ahead(
        self, read: Callable[[], Book], clock: ManualClock
    ) -> None:
        desk = Desk()
        await self.settled(desk, read(), clock)
        other = read()  # not the account as this process has left it
        await self.settled(desk, other, clock)
        assert desk.take_for([capture()], clock.monotonic()) is None

    async def test_what_was_known_before_a_look_is_known_after_it(
        self, read: Callable[[], Book], clock: ManualClock
    ) -> None:
        desk = Desk()
        first = await self.settled(desk, read(), clock)
        looked = Book(first.book.account, lots=(), holds=(), operations=(), source_refs=())
        draft = await make_draft(
            desk.recall(looked, clock.monotonic()), [Reserve(new_id(), "acme", new_id(), 1)], clock.now()
        )
        desk.settle(draft)
        assert desk.take_for([capture()], clock.monotonic()) is not None

    async def test_what_is_decided_ahead_changes_nothing_in_what_is_still_to_be_written(
        self, read: Callable[[], Book], clock: ManualClock
    ) -> None:
        desk = Desk()
        await self.settled(desk, read(), clock)
        first = await self.ahead(desk, [capture(2)], clock)
        assert first is not None
        before = first.book.changed_holds
        assert await self.ahead(desk, [capture(3)], clock) is not None
        assert first.book.changed_holds == before
        assert before[0].reservation.captured == 3
