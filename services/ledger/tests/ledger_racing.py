"""What races share: clients that remember what they were answered, ledgers to kill under them, and the reckoning."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import asyncpg
import grpc

from bulksms.ledger.v1 import ledger_pb2 as pb
from bulksms.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from bulksms_ledger.app import MIGRATIONS
from devstack.eventually import eventually
from devstack.postgres import EmbeddedPostgres
from devstack.processes import ManagedProcess
from devstack.serving import serving as serving_process
from servicekit import migrations
from servicekit.errors import DomainError
from servicekit.grpc.client import open_channel
from servicekit.grpc.errors import from_rpc_error

from .ledger_support import Ids, Tenant, refusal_reason

CLIENTS = 64
RESERVED = (100_000, 100_000, 100_000)
RESERVED_FOR_BATCHES = (10_000_000, 10_000_000, 5_000)  # the last one is soon exceeded
_PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)


Request = (
    pb.CaptureRequest
    | pb.ReserveRequest
    | pb.ReleaseRequest
    | pb.CloseRequest
    | pb.RefundRequest
    | pb.GrantCreditsRequest
)


Answer = bytes | tuple[str, str, str]
"""A response's bytes but for `replayed`, or what it was refused with."""


@dataclass(frozen=True)
class Answered:
    """A request and its first answer."""

    request: Request
    answer: Answer

    @property
    def done(self) -> bool:
        return isinstance(self.answer, bytes)


@dataclass
class Caller:
    """Calls whichever ledger answers, and remembers the answers."""

    stubs: Sequence[LedgerServiceStub]
    shared: Sequence[str]  # reservations that every caller captures from
    random: Random
    tenant_id: str = "acme"
    answered: list[Answered] = field(default_factory=list)
    replays: int = 0
    conflicts: int = 0
    failures: int = 0

    def choose_stub(self) -> LedgerServiceStub:
        return self.random.choice(self.stubs)

    async def work(self, rounds: int, stop: asyncio.Event) -> None:
        """At least so many rounds, and on until told to stop."""
        done = 0
        while done < rounds or not stop.is_set():
            done += 1
            await self.one_round()

    async def one_round(self) -> None:
        raise NotImplementedError

    async def call(self, request: Request | pb.BatchCaptureRequest) -> Any:
        """As any caller would: until it is answered; its response, or the refusal."""
        method = type(request).__name__.removesuffix("Request")
        async with asyncio.timeout(60):
            while True:
                stub = self.choose_stub()
                try:
                    return await getattr(stub, method)(request, timeout=10)
                except grpc.aio.AioRpcError as error:
                    if error.code() not in _PASSING:
                        return from_rpc_error(error)
                self.failures += 1
                await asyncio.sleep(self.random.uniform(0.01, 0.1))

    def new_capture(self) -> pb.CaptureRequest:
        return pb.CaptureRequest(
            request_id=self.new_id(),
            tenant_id=self.tenant_id,
            reservation_id=self.random.choice(self.shared),
            units=self.random.randint(1, 3),
        )

    def new_id(self) -> str:
        return str(UUID(int=self.random.getrandbits(128), version=4))


@dataclass
class Client(Caller):
    """Does all that moves credits on one account, and now and then repeats or reuses a request it has made before."""

    own: list[str] = field(default_factory=list)

    async def one_round(self) -> None:
        chance = self.random.random()
        if self.answered and chance < 0.30:
            await self.repeat()
        elif self.answered and chance < 0.35:
            await self.reuse()
        else:
            request = self.new_request()
            self.answered.append(Answered(request, await self.ask(request)))

    def new_request(self) -> Request:
        chance = self.random.random()
        if chance < 0.60:
            return self.new_capture()
        request_id, units = self.new_id(), self.random.randint(1, 3)
        base = {"request_id": request_id, "tenant_id": self.tenant_id}
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
        refused = await self.ask(changed(self.random.choice(self.answered).request))
        assert not isinstance(refused, bytes)
        assert refused[0] == "REQUEST_ID_REUSED"
        self.conflicts += 1

    async def ask(self, request: Request, *, replayed: bool | None = None) -> Answer:
        response = await self.call(request)
        if isinstance(response, DomainError):
            return response.reason, response.message, str(sorted(response.metadata.items()))
        assert replayed is None or response.replayed is replayed
        response.ClearField("replayed")
        return bytes(response.SerializeToString(deterministic=True))


@dataclass
class Outbox(Caller):
    """Captures in batches, as a dispatcher tells what it has sent; of every other one a part has been captured before.

    Stays with a ledger while it answers, as a dispatcher does.
    """

    batch: int = 1000

    def choose_stub(self) -> LedgerServiceStub:
        return self.stubs[self.failures % len(self.stubs)]

    async def one_round(self) -> None:
        share = min(len(self.answered), self.batch * 2 // 5) if self.random.random() < 0.5 else 0
        repeated = self.random.sample(self.answered, share)
        reused = repeated[: share // 6]
        known = {one.request.request_id: one for one in repeated[len(reused) :]}
        captures = [one.request for one in known.values()] + [changed(one.request) for one in reused]
        captures += [self.new_capture() for _ in range(self.batch - len(captures))]
        self.random.shuffle(captures)
        response = await self.call(pb.BatchCaptureRequest(captures=captures))
        assert isinstance(response, pb.BatchCaptureResponse), response
        refused_for_reuse = 0
        for capture, result in zip(captures, response.results, strict=True):
            assert result.request_id == capture.request_id
            reason = refusal_reason(result)
            answer: Answer = (reason, result.refusal.message, "") if reason else b""
            if first := known.get(capture.request_id):
                assert answer == first.answer
                assert result.replayed
                self.replays += 1
            elif reason == "REQUEST_ID_REUSED":
                refused_for_reuse += 1
            else:
                self.answered.append(Answered(capture, answer))
        assert refused_for_reuse == len(reused)
        self.conflicts += refused_for_reuse


def changed(request: Request) -> Any:
    """The same request id for something else."""
    other = copy.deepcopy(request)
    if isinstance(other, pb.CloseRequest):
        other.expected_captured += 1
    else:
        other.units += 1
    return other


async def race(racing: Sequence[Caller], operations: int, stop: asyncio.Event) -> None:
    async with asyncio.TaskGroup() as group:
        for client in racing:
            group.create_task(client.work(operations, stop))


def acknowledged(racing: Sequence[Caller]) -> int:
    return sum(len(client.answered) for client in racing)


async def progress(racing: Sequence[Caller], running: asyncio.Task[None], operations: int) -> None:
    """Return when so many more operations have been acknowledged."""
    goal = acknowledged(racing) + operations
    await eventually(lambda: acknowledged(racing) >= goal or running.done(), 60, every_seconds=0.01)


async def check(tenant: Tenant, racing: Sequence[Caller], url: str) -> None:
    """Every acknowledged operation is there once, nothing else is, and every sum is what was acknowledged."""
    done = [one.request for client in racing for one in client.answered if one.done]
    entries = await tenant.entries()
    setup = {entry.request_id for entry in entries[: 1 + len(racing[0].shared)]}
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


async def begin(
    stubs: Sequence[LedgerServiceStub], ids: Ids, reserved: Sequence[int] = RESERVED
) -> tuple[Tenant, list[str]]:
    """An account that is soon short of credits, and its reservations, of so many units, that all callers share."""
    tenant = await Tenant(stubs[0], ids).open(sum(reserved) + 500)
    return tenant, [(await tenant.reserve(units)).reservation.reservation_id for units in reserved]


def clients(stubs: Sequence[LedgerServiceStub], shared: Sequence[str], number: int = CLIENTS) -> list[Caller]:
    """Clients of different seeds."""
    return [Client(stubs, shared, Random(seed)) for seed in range(number)]


def outboxes(stubs: Sequence[LedgerServiceStub], shared: Sequence[str], number: int) -> list[Caller]:
    """Outboxes of different seeds."""
    return [Outbox(stubs, shared, Random(1000 + seed)) for seed in range(number)]


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
async def processes(
    url: str, folder: Path, count: int
) -> AsyncIterator[tuple[list[LedgerServiceStub], list[ManagedProcess]]]:
    """Ledgers on one database, each a process of its own."""
    async with AsyncExitStack() as stack:
        ledgers = [stack.enter_context(ledger_process(f"ledger-{i}", url, folder)) for i in range(count)]
        channels = [open_channel(address, default_timeout=timedelta(seconds=10)) for _, address in ledgers]
        for channel in channels:
            stack.push_async_callback(channel.close)
        yield [LedgerServiceStub(channel) for channel in channels], [process for process, _ in ledgers]


async def race_while_killing(
    victims: Sequence[str],
    url: str,
    folder: Path,
    ids: Ids,
    postgres: EmbeddedPostgres | None = None,
    *,
    batches: bool = False,
) -> int:
    """Race at two ledgers and kill one victim after the other in the middle of it; how many were acknowledged."""
    async with processes(url, folder, 2) as (stubs, ledgers):
        if batches:  # enough for large groups at both ledgers
            tenant, shared = await begin(stubs, ids, RESERVED_FOR_BATCHES)
            racing = [*outboxes(stubs, shared, 8), *clients(stubs, shared, 1)]
            rounds, between = 1, 5000
        else:
            tenant, shared = await begin(stubs, ids)
            racing, rounds, between = clients(stubs, shared), 10, 200
        stop = asyncio.Event()
        running = asyncio.create_task(race(racing, rounds, stop))
        try:
            for number, victim in enumerate(victims):
                await progress(racing, running, between)
                target = postgres if victim == "postgres" else ledgers[number // 2 % 2]
                assert target is not None
                await asyncio.to_thread(target.kill)
                await asyncio.to_thread(target.start)
            await progress(racing, running, between)
        finally:
            stop.set()
            await running
        # The other ledger may have acknowledged all that; this one's channel waits a while before it connects anew.
        await tenant.stub.GetBalance(pb.GetBalanceRequest(tenant_id=tenant.tenant_id), wait_for_ready=True)
        await check(tenant, racing, url)
        return acknowledged(racing)


@asynccontextmanager
async def own_postgres(folder: Path) -> AsyncIterator[EmbeddedPostgres]:
    """A migrated server to kill."""
    postgres = EmbeddedPostgres(folder / "postgres")
    await asyncio.to_thread(postgres.start)
    try:
        await migrations.upgrade(postgres.url, MIGRATIONS)
        yield postgres
    finally:
        await asyncio.to_thread(postgres.remove)
