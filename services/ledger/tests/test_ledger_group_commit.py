"""Group commit: what waits together is decided together, and nobody pays for anybody else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import pytest

from bulksms_ledger.domain.operations import AnyOperation, Decision, ExpireLots, OperationResult
from bulksms_ledger.engine.group_commit import GroupCommit
from servicekit import errors
from servicekit.errors import DomainError


def operation(number: int) -> ExpireLots:
    return ExpireLots(UUID(int=number), "acme")


class Decider:
    """Decides groups when it is told to; remembers them."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.groups: list[tuple[str, list[int]]] = []
        self.poison: dict[int, Exception] = {}
        self.began = asyncio.Event()
        self.beginnings = asyncio.Semaphore(0)  # one for every group that has begun

    async def decide(self, tenant_id: str, operations: Sequence[AnyOperation]) -> list[Decision]:
        numbers = [int(operation.request_id) for operation in operations]
        self.groups.append((tenant_id, numbers))
        self.began.set()
        self.beginnings.release()
        await self.open.wait()
        for number in numbers:
            if number in self.poison:
                raise self.poison[number]
        return [Decision(OperationResult(), replayed=bool(number % 2)) for number in numbers]

    async def let_one_through(self) -> None:
        """The group under way is decided; returns when the next one has begun."""
        while not self.beginnings.locked():
            await self.beginnings.acquire()
        self.open.set()
        self.open.clear()
        async with asyncio.timeout(5):
            await self.beginnings.acquire()


async def begin(group_commit: GroupCommit, decider: Decider, number: int) -> asyncio.Task[list[Decision]]:
    """A first request, whose group has begun: whatever is asked now waits."""
    first = asyncio.create_task(group_commit.decide("acme", [operation(number)]))
    async with asyncio.timeout(5):
        await decider.began.wait()
    return first


async def ask(group_commit: GroupCommit, *numbers: int, tenant_id: str = "acme") -> asyncio.Task[list[Decision]]:
    task = asyncio.create_task(group_commit.decide(tenant_id, [operation(number) for number in numbers]))
    await asyncio.sleep(0)
    return task


async def test_what_waits_is_decided_in_one_group_in_the_order_it_came() -> None:
    decider = Decider()
    group_commit = GroupCommit(decider.decide)
    first = await begin(group_commit, decider, 0)
    others = [await ask(group_commit, 1), await ask(group_commit, 2, 3), await ask(group_commit, 4)]
    decider.open.set()
    decisions = await asyncio.gather(first, *others)
    assert [[decision.replayed for decision in answer] for answer in decisions] == [
        [False],
        [True],
        [False, True],
        [False],
    ]
    assert decider.groups == [("acme", [0]), ("acme", [1, 2, 3, 4])]
    await group_commit.stop()


async def test_accounts_do_not_wait_for_each_other() -> None:
    decider = Decider()
    group_commit = GroupCommit(decider.decide)
    first = await begin(group_commit, decider, 0)
    decider.began.clear()
    other = await ask(group_commit, 1, tenant_id="other")
    async with asyncio.timeout(5):
        await decider.began.wait()
    decider.open.set()
    await asyncio.gather(first, other)
    await group_commit.stop()


async def test_groups_have_a_largest_size() -> None:
    decider = Decider()
    group_commit = GroupCommit(decider.decide, group_max=3)
    tasks = [await begin(group_commit, decider, 0)]
    tasks += [await ask(group_commit, number) for number in range(1, 6)]
    tasks.append(await ask(group_commit, *range(10, 15)))
    decider.open.set()
    await asyncio.gather(*tasks)
    assert [numbers for _, numbers in decider.groups] == [[0], [1, 2, 3], [4, 5], [10, 11, 12, 13, 14]]
    await group_commit.stop()


async def test_a_group_begins_when_as_many_wait_as_the_last_one_had() -> None:
    decider = Decider()
    group_commit = GroupCommit(decider.decide, quiet=timedelta(seconds=60), gathering=timedelta(seconds=60))
    tasks = [await begin(group_commit, decider, 0), *[await ask(group_commit, number) for number in (1, 2)]]
    await decider.let_one_through()  # two wait, and the last one had one
    tasks += [await ask(group_commit, number) for number in (3, 4, 5)]
    decider.open.set()
    async with asyncio.timeout(10):
        await asyncio.gather(*tasks)
    assert [numbers for _, numbers in decider.groups] == [[0], [1, 2], [3, 4, 5]]
    await group_commit.stop()


async def test_a_group_begins_when_nobody_joins_any_more() -> None:
    decider = Decider()
    group_commit = GroupCommit(decider.decide, quiet=timedelta(seconds=0.5), gathering=timedelta(seconds=60))
    tasks = [await begin(group_commit, decider, 0), *[await ask(group_commit, number) for number in range(1, 9)]]
    await decider.let_one_through()
    tasks += [await ask(group_commit, number) for number in (9, 10)]
    decider.open.set()
    await tasks[8]
    tasks.append(await ask(group_commit, 11))
    async with asyncio.timeout(10):
        await asyncio.gather(*tasks)
    assert [numbers for _, numbers in decider.groups] == [[0], [1, 2, 3, 4, 5, 6, 7, 8], [9, 10, 11]]
    await group_commit.stop()


async def test_a_group_begins_in_time_however_many_keep_coming() -> None:
    decider = Decider()
    group_commit = GroupCommit(decider.decide, quiet=timedelta(milliseconds=5), gathering=timedelta(milliseconds=20))
    tasks = [await begin(group_commit, decider, 0), *[await ask(group_commit, number) for number in range(1, 480)]]
    await decider.let_one_through()
    tasks += [await ask(group_commit, number) for number in (480, 481)]
    decider.open.set()
    async with asyncio.timeout(10):
        while len(decider.groups) < 3:
            tasks.append(await ask(group_commit, len(tasks)))
            await asyncio.sleep(0.0003)
        await asyncio.gather(*tasks)
    assert len(decider.groups[2][1]) < 450, "it did not wait for as many as the one before had"
    await group_commit.stop()


async def test_a_lone_request_is_decided_at_once() -> None:
    decider = Decider()
    decider.open.set()
    group_commit = GroupCommit(decider.decide, quiet=timedelta(seconds=60), gathering=timedelta(seconds=60))
    async with asyncio.timeout(10):
        for number in range(3):
            await group_commit.decide("acme", [operation(number)])
    assert [numbers for _, numbers in decider.groups] == [[0], [1], [2]]
    await group_commit.stop()


async def test_a_full_queue_turns_callers_away_with_a_delay() -> None:
    decider = Decider()
    group_commit = GroupCommit(decider.decide, waiting_max=3)
    first = await begin(group_commit, decider, 0)
    waiting = await ask(group_commit, 1, 2, 3)
    with pytest.raises(DomainError) as refused:
        await group_commit.decide("other", [operation(4)])
    assert refused.value.reason == "LEDGER_OVERLOADED"
    assert refused.value.retry_after is not None
    decider.open.set()
    await asyncio.gather(first, waiting)
    assert len(await group_commit.decide("other", [operation(4)])) == 1
    await group_commit.stop()


async def test_a_caller_that_goes_away_is_forgotten_before_its_group_and_not_after() -> None:
    decider = Decider()
    group_commit = GroupCommit(decider.decide)
    first = await begin(group_commit, decider, 0)
    gone, stays = await ask(group_commit, 1), await ask(group_commit, 2)
    first.cancel()
    gone.cancel()
    await asyncio.gather(first, gone, return_exceptions=True)
    decider.open.set()
    await stays
    assert [numbers for _, numbers in decider.groups] == [[0], [2]]
    await group_commit.stop()


async def test_one_operation_that_fails_by_a_bug_does_not_fail_the_others_of_its_group() -> None:
    decider = Decider()
    decider.poison[2] = RuntimeError("a bug")
    group_commit = GroupCommit(decider.decide)
    first = await begin(group_commit, decider, 0)
    others = [await ask(group_commit, number) for number in (1, 2, 3)]
    decider.open.set()
    await first
    results = await asyncio.gather(*others, return_exceptions=True)
    assert [type(result) for result in results] == [list, RuntimeError, list]
    await group_commit.stop()


async def test_when_the_database_is_away_every_caller_of_a_group_hears_it_after_one_attempt() -> None:
    decider = Decider()
    decider.poison[2] = errors.unavailable("DATABASE_UNAVAILABLE", "away")
    group_commit = GroupCommit(decider.decide)
    first = await begin(group_commit, decider, 0)
    others = [await ask(group_commit, number) for number in (1, 2, 3)]
    decider.open.set()
    await first
    results = await asyncio.gather(*others, return_exceptions=True)
    assert all(isinstance(result, DomainError) and result.retryable for result in results)
    assert len(decider.groups) == 2
    await group_commit.stop()


async def test_stopping_finishes_what_waits_and_takes_nothing_new() -> None:
    decider = Decider()
    group_commit = GroupCommit(decider.decide)
    first = await begin(group_commit, decider, 0)
    waiting = await ask(group_commit, 1)
    stopping = asyncio.create_task(group_commit.stop())
    await asyncio.sleep(0)
    with pytest.raises(DomainError, match="SHUTTING_DOWN"):
        await group_commit.decide("acme", [operation(2)])
    decider.open.set()
    await asyncio.gather(first, waiting, stopping)
