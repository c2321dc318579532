"""Many clients, two ledgers, kills in between: nothing acknowledged is lost, nothing is applied twice."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from random import Random
from uuid import UUID

import grpc
import pytest

from bulksms.ledger.v1 import ledger_pb2 as pb
from bulksms.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from bulksms_ledger.app import MIGRATIONS
from devstack.health import is_serving
from devstack.ports import choose_port, release_port
from devstack.postgres import EmbeddedPostgres
from devstack.process_run import base_environment
from devstack.processes import ManagedProcess
from servicekit import migrations
from servicekit.clock import ManualClock
from servicekit.grpc.client import open_channel
from servicekit.grpc.errors import from_rpc_error

from .ledger_support import Ids, Tenant, serving

CLIENTS = 64
_PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


@dataclass
class Client:
    """Captures one credit at a time, and now and then repeats or reuses a request it has made before."""

    stubs: Sequence[LedgerServiceStub]
    reservation_ids: Sequence[str]
    random: Random
    tenant_id: str = "acme"
    answers: dict[str, tuple[pb.CaptureRequest, pb.CaptureResponse]] = field(default_factory=dict)
    replays: int = 0
    conflicts: int = 0

    async def work(self, operations: int, stop: asyncio.Event) -> None:
        """At least so many operations, and on until told to stop."""
        done = 0
        while done < operations or not stop.is_set():
            done += 1
            chance = self.random.random()
            if self.answers and chance < 0.30:
                await self.repeat()
            elif self.answers and chance < 0.35:
                await self.reuse()
            else:
                await self.capture()

    async def capture(self) -> None:
        request = pb.CaptureRequest(
            request_id=str(UUID(int=self.random.getrandbits(128), version=4)),
            tenant_id=self.tenant_id,
            reservation_id=self.random.choice(self.reservation_ids),
            units=1,
        )
        self.answers[request.request_id] = (request, await self.call(request))

    async def repeat(self) -> None:
        request, first = self.random.choice(list(self.answers.values()))
        again = await self.call(request)
        assert again.replayed
        assert again.reservation == first.reservation
        self.replays += 1

    async def reuse(self) -> None:
        request, _ = self.random.choice(list(self.answers.values()))
        other = pb.CaptureRequest()
        other.CopyFrom(request)
        other.units = 2
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await self.call(other)
        assert from_rpc_error(refused.value).reason == "REQUEST_ID_REUSED"
        self.conflicts += 1

    async def call(self, request: pb.CaptureRequest) -> pb.CaptureResponse:
        """As any caller would: until it is answered, at whichever ledger answers."""
        async with asyncio.timeout(60):
            while True:
                stub = self.random.choice(self.stubs)
                try:
                    return await stub.Capture(request, timeout=10)
                except grpc.aio.AioRpcError as error:
                    if error.code() not in _PASSING:
                        raise
                await asyncio.sleep(self.random.uniform(0.01, 0.1))


def clients(stubs: Sequence[LedgerServiceStub], reservation_ids: Sequence[str]) -> list[Client]:
    return [Client(stubs, reservation_ids, Random(seed)) for seed in range(CLIENTS)]


async def race(racing: Sequence[Client], operations: int, stop: asyncio.Event) -> None:
    async with asyncio.TaskGroup() as group:
        for client in racing:
            group.create_task(client.work(operations, stop))


def acknowledged(racing: Sequence[Client]) -> int:
    return sum(len(client.answers) for client in racing)


async def progress(racing: Sequence[Client], running: asyncio.Task[None], operations: int) -> None:
    """Return when so many more operations have been acknowledged."""
    goal = acknowledged(racing) + operations
    async with asyncio.timeout(60):
        while acknowledged(racing) < goal and not running.done():  # noqa: ASYNC110 - many clients make it
            await asyncio.sleep(0.01)


async def check(tenant: Tenant, racing: Sequence[Client]) -> None:
    """Every acknowledged capture is there once, and nothing else is."""
    acknowledged = {request_id for client in racing for request_id in client.answers}
    entries = await tenant.entries()
    captures = [entry.request_id for entry in entries if entry.kind == pb.ENTRY_KIND_CAPTURE]
    assert sorted(captures) == sorted(acknowledged)
    balance = await tenant.balance()
    assert balance.captured == len(acknowledged)
    assert balance.granted == balance.available + balance.reserved + balance.captured
    verified = await tenant.verify()
    assert list(verified.differences) == []
    assert verified.entries == len(entries)


async def test_64_clients_race_over_two_ledgers_and_every_sum_is_exact(ledger_url: str, ids: Ids) -> None:
    async with AsyncExitStack() as stack:
        stubs = [await stack.enter_async_context(serving(ledger_url, ManualClock())) for _ in range(2)]
        tenant = await Tenant(stubs[0], ids).open(10_000)
        reservation_ids = [(await tenant.reserve(2_000)).reservation.reservation_id for _ in range(3)]
        racing = clients(stubs, reservation_ids)
        await race(racing, 30, finished())
        await check(tenant, racing)
        assert sum(client.replays for client in racing) > 300
        assert sum(client.conflicts for client in racing) > 30


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
def ledger_process(name: str, url: str, folder: Path) -> Iterator[tuple[ManagedProcess, str]]:
    """A ledger in a process of its own, and its address."""
    port = choose_port()
    process = ManagedProcess(
        name,
        [sys.executable, "-m", "bulksms_ledger", "serve"],
        log_path=folder / f"{name}.log",
        environment={
            **base_environment(),
            "DATABASE_URL": url,
            "GRPC_LISTEN": f"127.0.0.1:{port}",
            "LOG_LEVEL": "WARNING",
            "OTEL_TRACES_EXPORTER": "none",
            "OTEL_METRICS_EXPORTER": "none",
        },
        ready=partial(is_serving, port),
    )
    process.start()
    try:
        yield process, f"127.0.0.1:{port}"
    finally:
        process.stop()
        release_port(port)


async def race_while_killing(
    victims: Sequence[str], url: str, folder: Path, ids: Ids, postgres: EmbeddedPostgres | None = None
) -> None:
    """Race at two ledger processes and kill one victim after the other, each in the middle of the race."""
    async with AsyncExitStack() as stack:
        ledgers = [stack.enter_context(ledger_process(f"ledger-{i}", url, folder)) for i in range(2)]
        channels = [open_channel(address, default_timeout=timedelta(seconds=10)) for _, address in ledgers]
        for channel in channels:
            stack.push_async_callback(channel.close)
        stubs = [LedgerServiceStub(channel) for channel in channels]
        tenant = await Tenant(stubs[0], ids).open(1_000_000)
        reservation_ids = [(await tenant.reserve(200_000)).reservation.reservation_id for _ in range(3)]
        racing, stop = clients(stubs, reservation_ids), asyncio.Event()
        running = asyncio.create_task(race(racing, 10, stop))
        try:
            for number, victim in enumerate(victims):
                await progress(racing, running, 200)
                target = postgres if victim == "postgres" else ledgers[number % 2][0]
                assert target is not None
                await asyncio.to_thread(target.kill)
                await asyncio.to_thread(target.start)
            await progress(racing, running, 200)
        finally:
            stop.set()
            await running
        await check(tenant, racing)


async def test_killed_ledgers_lose_nothing_and_apply_nothing_twice(ledger_url: str, ids: Ids, tmp_path: Path) -> None:
    await race_while_killing(["ledger"] * 2, ledger_url, tmp_path, ids)


@pytest.mark.faults
@pytest.mark.timeout(1800)
async def test_killed_databases_lose_nothing_and_apply_nothing_twice(ids: Ids, tmp_path: Path) -> None:
    kills = int(os.environ.get("BULKSMS_LEDGER_KILLS", "4"))
    postgres = EmbeddedPostgres(tmp_path / "postgres")
    await asyncio.to_thread(postgres.start)
    try:
        await migrations.upgrade(postgres.url, MIGRATIONS)
        victims = ["postgres" if kill % 2 else "ledger" for kill in range(kills)]
        await race_while_killing(victims, postgres.url, tmp_path, ids, postgres)
    finally:
        await asyncio.to_thread(postgres.remove)
