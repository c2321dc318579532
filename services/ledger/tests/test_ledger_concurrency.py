"""Many clients, two ledgers, kills in between: nothing acknowledged is lost, nothing is applied twice."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest

from bulksms.ledger.v1 import ledger_pb2 as pb
from servicekit.clock import ManualClock
from servicekit.grpc.errors import from_rpc_error

from .attempts_support import Sender, reason, sender_of
from .ledger_racing import (
    CLIENTS,
    acknowledged,
    begin,
    check,
    clients,
    finished,
    own_postgres,
    processes,
    race,
    race_while_killing,
)
from .ledger_support import Ids, Tenant, serving

pytestmark = pytest.mark.slow


async def test_64_clients_race_over_two_ledgers_and_every_sum_is_exact(ledger_url: str, ids: Ids) -> None:
    async with AsyncExitStack() as stack:
        stubs = [await stack.enter_async_context(serving(ledger_url, ManualClock())) for _ in range(2)]
        tenant, shared = await begin(stubs, ids)
        racing = clients(stubs, shared)
        await race(racing, 30, finished())
        await check(tenant, racing, ledger_url)
        assert sum(client.replays for client in racing) > 300
        assert sum(client.conflicts for client in racing) > 30


@pytest.mark.faults
@pytest.mark.timeout(1800)
async def test_64_clients_race_50_000_operations_over_two_processes(
    ledger_url: str, ids: Ids, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    operations = int(os.environ.get("BULKSMS_LEDGER_OPERATIONS", "50000"))
    async with processes(ledger_url, tmp_path, 2) as (stubs, _):
        tenant, shared = await begin(stubs, ids)
        racing = clients(stubs, shared)
        started = time.monotonic()
        await race(racing, -(-operations // CLIENTS), finished())
        seconds = time.monotonic() - started
        await check(tenant, racing, ledger_url)
    answers = [one.answer for client in racing for one in client.answered]
    refused = Counter(answer[0] for answer in answers if not isinstance(answer, bytes))
    assert refused["INSUFFICIENT_CREDITS"] > 0
    replays, conflicts = sum(client.replays for client in racing), sum(client.conflicts for client in racing)
    with capsys.disabled():
        sys.stdout.write(
            f"\n{acknowledged(racing)} new operations, {replays} replays, {conflicts} conflicts "
            f"in {seconds:.0f} s; refused: {dict(refused)}\n"
        )


async def test_racing_reservations_never_overdraw(ledger_url: str, ids: Ids) -> None:
    async with AsyncExitStack() as stack:
        stubs = [await stack.enter_async_context(serving(ledger_url, ManualClock())) for _ in range(2)]
        tenants = [await Tenant(stubs[0], ids, name).open(100) for name in ("a", "b")]
        callers = [Tenant(stubs[i % 2], ids, tenants[i // 2 % 2].tenant_id) for i in range(CLIENTS)]
        results = await asyncio.gather(*(caller.reserve(7) for caller in callers), return_exceptions=True)
        refusals = [result for result in results if isinstance(result, grpc.aio.AioRpcError)]
        assert {from_rpc_error(refusal).reason for refusal in refusals} == {"INSUFFICIENT_CREDITS"}
        assert len(results) - len(refusals) == 2 * (100 // 7)
        for tenant in tenants:
            balance = await tenant.balance()
            assert (balance.available, balance.reserved) == (2, 98)
            assert (await tenant.verify()).consistent


async def test_a_hundred_attempts_at_three_processes_share_ten_credits(
    ledger_url: str, ids: Ids, tmp_path: Path
) -> None:
    async with processes(ledger_url, tmp_path, 3) as (stubs, _):
        tenant = await Tenant(stubs[0], ids).open(1000)
        scarce, wanted = await sender_of(tenant, 10), await sender_of(tenant, 100)

        async def authorize(sender: Sender, position: int) -> str:
            asked = pb.BatchAuthorizeRequest(authorizations=[sender.asks(ids(), [(position, position)])])
            [result] = (await stubs[position % 3].BatchAuthorize(asked)).results
            return reason(result)

        answers = await asyncio.gather(*(authorize(scarce, position) for position in range(100)))
        assert Counter(answers) == {"": 10, "RESERVATION_EXCEEDED": 90}
        assert await scarce.figures() == (0, 10, 0, 0)
        # Of thirty that want the same ten people each is authorized once, whichever process asks.
        answers = await asyncio.gather(*(authorize(wanted, number % 10) for number in range(30)))
        answers += await asyncio.gather(*(authorize(wanted, number % 10 + 3) for number in range(7)))
        assert Counter(answers) == {"": 10, "POSITIONS_TAKEN": 27}
        assert await wanted.figures() == (90, 10, 0, 0)
        assert (await tenant.verify()).consistent


async def test_the_same_request_id_at_two_tenants_at_once_is_taken_by_one(ledger_url: str, ids: Ids) -> None:
    async with AsyncExitStack() as stack:
        stubs = [await stack.enter_async_context(serving(ledger_url, ManualClock())) for _ in range(2)]
        tenants = [await Tenant(stub, ids, name).open() for stub, name in zip(stubs, ("a", "b"), strict=True)]
        for _ in range(20):
            request_ids = [ids(), ids()]
            calls = [tenants[i].grant(1, request_id=request_ids[j]) for i, j in ((0, 0), (1, 1), (0, 1), (1, 0))]
            results = await asyncio.gather(*calls, return_exceptions=True)
            errors = [result for result in results if isinstance(result, grpc.aio.AioRpcError)]
            assert [from_rpc_error(error).reason for error in errors] == ["REQUEST_ID_REUSED"] * 2
        granted = [(await tenant.balance()).granted for tenant in tenants]
        assert sum(granted) == 40


async def test_killed_ledgers_lose_nothing_and_apply_nothing_twice(ledger_url: str, ids: Ids, tmp_path: Path) -> None:
    await race_while_killing(["ledger"] * 2, ledger_url, tmp_path, ids)


async def test_batches_under_kills_lose_nothing_and_apply_nothing_twice(ids: Ids, tmp_path: Path) -> None:
    async with own_postgres(tmp_path) as postgres:
        await race_while_killing(["ledger", "postgres"], postgres.url, tmp_path, ids, postgres, batches=True)


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("batches", [False, True], ids=["one by one", "batches of 1,000"])
async def test_killed_databases_lose_nothing_and_apply_nothing_twice(
    batches: bool, ids: Ids, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kills = int(os.environ.get("BULKSMS_LEDGER_KILLS", "50"))
    async with own_postgres(tmp_path) as postgres:
        victims = ["postgres" if kill % 2 else "ledger" for kill in range(kills)]
        done = await race_while_killing(victims, postgres.url, tmp_path, ids, postgres, batches=batches)
    with capsys.disabled():
        sys.stdout.write(f"\n{kills} kills, {done} operations acknowledged: none lost, none applied twice\n")
