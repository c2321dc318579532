"""Two ledgers write to one account in turns: each decides on what the other has left."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from uuid import UUID

import asyncpg
import pytest
from pydantic import SecretStr

from bulksms_ledger.domain.accounts import SubscriptionStatus
from bulksms_ledger.domain.operations import (
    AnyOperation,
    Capture,
    CreateAccount,
    Decision,
    GrantCredits,
    OperationResult,
    Reserve,
    SetSubscription,
)
from bulksms_ledger.domain.refusals import DomainRefusal, RefusalReason
from bulksms_ledger.engine.account_writer import AccountWriter
from bulksms_ledger.engine.group_commit import GroupCommit
from bulksms_ledger.settings import Settings
from bulksms_ledger.storage.connections import open_database
from bulksms_ledger.use_cases.account_verification import verify_account
from servicekit.clock import ManualClock
from servicekit.database import Database
from servicekit.settings import load

pytestmark = pytest.mark.slow

RESERVATION = UUID(int=1 << 64)
SUBSCRIBED = (SubscriptionStatus.ACTIVE, None, "signed up")
_numbers = itertools.count(2 << 64)


def new_id() -> UUID:
    return UUID(int=next(_numbers))


def capture(units: int = 1, request_id: UUID | None = None) -> Capture:
    return Capture(request_id or new_id(), "acme", RESERVATION, units)


def opening(units: int) -> list[AnyOperation]:
    return [
        SetSubscription(new_id(), "acme", *SUBSCRIBED),
        GrantCredits(new_id(), "acme", units),
        Reserve(new_id(), "acme", RESERVATION, units),
    ]


def captured(decision: Decision) -> int:
    assert isinstance(decision.outcome, OperationResult)
    assert decision.outcome.reservation is not None
    return decision.outcome.reservation.captured


def reason(decision: Decision) -> RefusalReason | None:
    return decision.outcome.reason if isinstance(decision.outcome, DomainRefusal) else None


@pytest.fixture
async def databases(ledger_url: str) -> AsyncIterator[list[Database]]:
    settings = load(Settings, database_url=SecretStr(ledger_url))
    made = [open_database(settings) for _ in range(2)]
    yield made
    for database in made:
        await database.stop()


@pytest.fixture
async def writers(databases: list[Database], clock: ManualClock) -> list[AccountWriter]:
    writers = [AccountWriter(database, clock) for database in databases]
    await writers[0].create_account(CreateAccount(new_id(), "acme"))
    await writers[0].decide("acme", opening(10_000))
    return writers


async def is_consistent(database: Database, expected_captured: int) -> None:
    verification = await verify_account(database, "acme")
    assert verification is not None
    assert verification.differences == []
    async with database.connect() as connection:
        row = await connection.exec_driver_sql("SELECT captured FROM accounts")
        assert row.scalar_one() == expected_captured


@pytest.mark.parametrize("size", [1, 30, 700])
async def test_each_ledger_decides_on_what_the_other_has_written(
    writers: list[AccountWriter], databases: list[Database], size: int
) -> None:
    total = 0
    for turn in [0, 0, 0, 1, 0, 1, 1, 1, 0]:
        decisions = await writers[turn].decide("acme", [capture() for _ in range(size)])
        assert [captured(decision) for decision in decisions] == list(range(total + 1, total + size + 1))
        total += size
    await is_consistent(databases[0], total)


@pytest.mark.parametrize("size", [1, 30, 700])
async def test_a_request_id_the_other_ledger_has_used_is_replayed_or_refused(
    writers: list[AccountWriter], databases: list[Database], size: int
) -> None:
    first = await writers[0].decide("acme", [capture()])
    used = capture(5)
    [answer] = await writers[1].decide("acme", [used])
    await writers[0].decide("acme", [capture()])
    await writers[0].decide("acme", [capture()])
    group = [*(capture() for _ in range(size - 1)), used, capture(6, used.request_id)]
    *_, again, other = await writers[0].decide("acme", group)
    assert (again.replayed, again.outcome) == (True, answer.outcome)
    assert (other.replayed, reason(other)) == (False, RefusalReason.REQUEST_ID_REUSED)
    await is_consistent(databases[0], captured(first[0]) + 5 + 2 + size - 1)


@pytest.mark.parametrize("size", [1, 30, 700])
async def test_a_subscription_set_by_the_other_ledger_is_not_overwritten(
    writers: list[AccountWriter], ledger_url: str, size: int
) -> None:
    for _ in range(3):
        await writers[0].decide("acme", [capture() for _ in range(size)])
    later = SetSubscription(new_id(), "acme", SubscriptionStatus.SUSPENDED, None, "unpaid")
    await writers[1].decide("acme", [later])
    for _ in range(3):
        await writers[0].decide("acme", [capture() for _ in range(size)])
    connection = await asyncpg.connect(ledger_url)
    try:
        assert await connection.fetchval("SELECT subscription_reason FROM accounts") == "unpaid"
    finally:
        await connection.close()
    [refused] = await writers[0].decide("acme", [Reserve(new_id(), "acme", new_id(), 1)])
    assert reason(refused) is RefusalReason.SUBSCRIPTION_INACTIVE


async def test_groups_that_wait_at_one_ledger_find_a_request_id_the_other_has_used(
    writers: list[AccountWriter], databases: list[Database]
) -> None:
    used = capture(7)
    [known] = await writers[1].decide("acme", [used])
    group_commit = GroupCommit(writers[0].decide, group_max=601)
    groups = [[used, *(capture() for _ in range(600))] for _ in range(4)]
    answers = await asyncio.gather(*(group_commit.decide("acme", group) for group in groups))
    await group_commit.stop()
    assert [decision.outcome for decision, *_ in answers] == [known.outcome] * 4
    every = [captured(decision) for _, *decisions in answers for decision in decisions]
    assert every == list(range(8, 8 + 2400))
    await is_consistent(databases[0], 7 + 2400)


async def test_a_refusal_alone_in_its_group_is_kept_and_replayed(
    writers: list[AccountWriter], databases: list[Database]
) -> None:
    writer = writers[0]
    await writer.decide("acme", [capture()])
    [refused] = await writer.decide("acme", [too_many := capture(20_000)])
    [taken] = await writer.decide("acme", [capture()])
    [again] = await writer.decide("acme", [too_many])
    assert (reason(refused), captured(taken)) == (RefusalReason.RESERVATION_EXCEEDED, 2)
    assert (again.replayed, again.outcome) == (True, refused.outcome)
    await is_consistent(databases[0], 2)
