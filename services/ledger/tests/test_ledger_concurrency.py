"""Many clients, two ledgers, kills in between: nothing acknowledged is lost, nothing is applied twice."""

from __future__ import annotations

import asyncio
import copy
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from random import Random
from uuid import UUID

import asyncpg
import grpc
import pytest

from bulksms.ledger.v1 import ledger_pb2 as pb
from bulksms.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from bulksms_ledger.app import MIGRATIONS
from devstack.postgres import EmbeddedPostgres
from devstack.processes import ManagedProcess
from devstack.serving import serving as serving_process
from servicekit import migrations
from servicekit.clock import ManualClock
from servicekit.grpc.client import open_channel
from servicekit.grpc.errors import from_rpc_error

from .ledger_support import Ids, Tenant, serving

CLIENTS = 64
SHARED = 3
_PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


Request = (
    pb.CaptureRequest
    | pb.ReserveRequest
    | pb.ReleaseRequest
    | pb.CloseRequest
    | pb.RefundRequest
    | pb.GrantCreditsRequest
)


@dataclass(frozen=True)
class Answered:
    """A request and its first answer: a response's bytes but for `replayed`, or what it was refused with."""

    request: Request
    answer: bytes | tuple[str, str, str]

    @property
    def done(self) -> bool:
        return isinstance(self.answer, bytes)


@dataclass
class Client:
    """Does all that moves credits on one account, and now and then repeats or reuses a request it has made before."""

    stubs: Sequence[LedgerServiceStub]
    shared: Sequence[str]  # reservations that every client captures from
    random: Random
    tenant_id: str = "acme"
    own: list[str] = field(default_factory=list)
    answered: list[Answered] = field(default_factory=list)
    replays: int = 0
    conflicts: int = 0

    async def work(self, operations: int, stop: asyncio.Event) -> None:
        """At least so many operations, and on until told to stop."""
        done = 0
        while done < operations or not stop.is_set():
            done += 1
            chance = self.random.random()
            if self.answered and chance < 0.30:
                await self.repeat()
            elif self.answered and chance < 0.35:
                await self.reuse()
            else:
                request = self.new_request()
                self.answered.append(Answered(request, await self.ask(request)))

    def new_request(self) -> Request:
        request_id, units = self.new_id(), self.random.randint(1, 3)
        base = {"request_id": request_id, "tenant_id": self.tenant_id}
        chance = self.random.random()
        if chance < 0.60:
            return pb.CaptureRequest(**base, reservation_id=self.random.choice(self.shared), units=units)
        if chance < 0.75 or not self.own:
            self.own.append(self.new_id())
            return pb.ReserveRequest(**base, reservation_id=self.own[-1], units=self.random.randint(1, 80))
        reservation_id = self.random.choice(self.own)
        if chance < 0.83:
            return pb.ReleaseRequest(**base, reservation_id=reservation_id, units=units)
        if chance < 0.89:
            return pb.CloseRequest(
                **base, reservation_id=reservation_id, expected_captured=self.random.choice((0, 0, 5))
            )
        if chance < 0.95:
            shared = self.random.choice(self.shared)
            return pb.RefundRequest(**base, reservation_id=shared, units=units, reason="complaint")
        return pb.GrantCreditsRequest(**base, units=units * 10)

    async def repeat(self) -> None:
        first = self.random.choice(self.answered)
        assert await self.ask(first.request, replayed=first.done) == first.answer
        self.replays += 1

    async def reuse(self) -> None:
        other = copy.deepcopy(self.random.choice(self.answered).request)
        if isinstance(other, pb.CloseRequest):
            other.expected_captured += 1
        else:
            other.units += 1
        refused = await self.ask(other)
        assert not isinstance(refused, bytes)
        assert refused[0] == "REQUEST_ID_REUSED"
        self.conflicts += 1

    async def ask(self, request: Request, *, replayed: bool | None = None) -> bytes | tuple[str, str, str]:
        """As any caller would: until it is answered, at whichever ledger answers."""
        method = type(request).__name__.removesuffix("Request")
        async with asyncio.timeout(60):
            while True:
                stub = self.random.choice(self.stubs)
                try:
                    response = await getattr(stub, method)(request, timeout=10)
                except grpc.aio.AioRpcError as error:
                    if error.code() not in _PASSING:
                        refusal = from_rpc_error(error)
                        return refusal.reason, refusal.message, str(sorted(refusal.metadata.items()))
                else:
                    assert replayed is None or response.replayed is replayed
                    response.ClearField("replayed")
                    return bytes(response.SerializeToString(deterministic=True))
                await asyncio.sleep(self.random.uniform(0.01, 0.1))

    def new_id(self) -> str:
        return str(UUID(int=self.random.getrandbits(128), version=4))


def clients(stubs: Sequence[LedgerServiceStub], shared: Sequence[str]) -> list[Client]:
    return [Client(stubs, shared, Random(seed)) for seed in range(CLIENTS)]


async def race(racing: Sequence[Client], operations: int, stop: asyncio.Event) -> None:
    async with asyncio.TaskGroup() as group:
        for client in racing:
            group.create_task(client.work(operations, stop))


def acknowledged(racing: Sequence[Client]) -> int:
    return sum(len(client.answered) for client in racing)


async def progress(racing: Sequence[Client], running: asyncio.Task[None], operations: int) -> None:
    """Return when so many more operations have been acknowledged."""
    goal = acknowledged(racing) + operations
    async with asyncio.timeout(60):
        while acknowledged(racing) < goal and not running.done():  # noqa: ASYNC110 - many clients make it
            await asyncio.sleep(0.01)


async def check(tenant: Tenant, racing: Sequence[Client], url: str) -> None:
    """Every acknowledged operation is there once, nothing else is, and every sum is what was acknowledged."""
    done = [one.request for client in racing for one in client.answered if one.done]
    entries = await tenant.entries()
    setup = {entry.request_id for entry in entries[: 1 + SHARED]}
    assert sorted(entry.request_id for entry in entries) == sorted([*setup, *(one.request_id for one in done)])
    assert all(entry.available_after >= 0 and entry.reserved_after >= 0 for entry in entries)

    def moved(*kinds: type) -> int:
        return sum(one.units for one in done if isinstance(one, kinds))

    balance = await tenant.balance()
    assert balance.granted == entries[0].units + moved(pb.GrantCreditsRequest)
    assert balance.captured == moved(pb.CaptureRequest) - moved(pb.RefundRequest)
    assert balance.granted == balance.available + balance.reserved + balance.captured
    verified = await tenant.verify()
    assert list(verified.differences) == []
    assert verified.entries == len(entries)
    connection = await asyncpg.connect(url)
    try:
        deadlocks = await connection.fetchval(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        )
    finally:
        await connection.close()
    assert deadlocks == 0


async def begin(stubs: Sequence[LedgerServiceStub], ids: Ids) -> tuple[Tenant, list[Client]]:
    """An account that is soon short of credits, with reservations that all clients share, and the clients."""
    tenant = await Tenant(stubs[0], ids).open(SHARED * 100_000 + 500)
    shared = [(await tenant.reserve(100_000)).reservation.reservation_id for _ in range(SHARED)]
    return tenant, clients(stubs, shared)


async def test_64_clients_race_over_two_ledgers_and_every_sum_is_exact(ledger_url: str, ids: Ids) -> None:
    async with AsyncExitStack() as stack:
        stubs = [await stack.enter_async_context(serving(ledger_url, ManualClock())) for _ in range(2)]
        tenant, racing = await begin(stubs, ids)
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
    async with two_processes(ledger_url, tmp_path) as (stubs, _):
        tenant, racing = await begin(stubs, ids)
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


def finished() -> asyncio.Event:
    stop = asyncio.Event()
    stop.set()
    return stop


@contextmanager
def ledger_process(
    name: str, url: str, folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[ManagedProcess, str]]:
    """A ledger in a process of its own, and its address."""
    variables = {"DATABASE_URL": url, **(environment or {})}
    with serving_process(name, ["-m", "bulksms_ledger", "serve"], folder, variables) as started:
        yield started


@asynccontextmanager
async def two_processes(url: str, folder: Path) -> AsyncIterator[tuple[list[LedgerServiceStub], list[ManagedProcess]]]:
    """Two ledgers on one database, each a process of its own."""
    async with AsyncExitStack() as stack:
        ledgers = [stack.enter_context(ledger_process(f"ledger-{i}", url, folder)) for i in range(2)]
        channels = [open_channel(address, default_timeout=timedelta(seconds=10)) for _, address in ledgers]
        for channel in channels:
            stack.push_async_callback(channel.close)
        yield [LedgerServiceStub(channel) for channel in channels], [process for process, _ in ledgers]


async def race_while_killing(
    victims: Sequence[str], url: str, folder: Path, ids: Ids, postgres: EmbeddedPostgres | None = None
) -> int:
    """Race at two ledgers and kill one victim after the other in the middle of it; how many were acknowledged."""
    async with two_processes(url, folder) as (stubs, ledgers):
        tenant, racing = await begin(stubs, ids)
        stop = asyncio.Event()
        running = asyncio.create_task(race(racing, 10, stop))
        try:
            for number, victim in enumerate(victims):
                await progress(racing, running, 200)
                target = postgres if victim == "postgres" else ledgers[number // 2 % 2]
                assert target is not None
                await asyncio.to_thread(target.kill)
                await asyncio.to_thread(target.start)
            await progress(racing, running, 200)
        finally:
            stop.set()
            await running
        # The other ledger may have acknowledged all that; this one's channel waits a while before it connects anew.
        await tenant.stub.GetBalance(pb.GetBalanceRequest(tenant_id=tenant.tenant_id), wait_for_ready=True)
        await check(tenant, racing, url)
        return acknowledged(racing)


async def test_killed_ledgers_lose_nothing_and_apply_nothing_twice(ledger_url: str, ids: Ids, tmp_path: Path) -> None:
    await race_while_killing(["ledger"] * 2, ledger_url, tmp_path, ids)


@pytest.mark.faults
@pytest.mark.timeout(3600)
async def test_killed_databases_lose_nothing_and_apply_nothing_twice(
    ids: Ids, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kills = int(os.environ.get("BULKSMS_LEDGER_KILLS", "50"))
    postgres = EmbeddedPostgres(tmp_path / "postgres")
    await asyncio.to_thread(postgres.start)
    try:
        await migrations.upgrade(postgres.url, MIGRATIONS)
        victims = ["postgres" if kill % 2 else "ledger" for kill in range(kills)]
        acknowledged = await race_while_killing(victims, postgres.url, tmp_path, ids, postgres)
    finally:
        await asyncio.to_thread(postgres.remove)
    with capsys.disabled():
        sys.stdout.write(f"\n{kills} kills, {acknowledged} operations acknowledged: none lost, none applied twice\n")
