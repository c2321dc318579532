"""Senders race for the same people over two ledgers that are killed meanwhile: nobody is sent to twice."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import asyncpg
import grpc
import pytest

from bulksms.ledger.v1 import ledger_pb2 as pb
from bulksms.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from bulksms_ledger.domain.positions import POSITIONS_IN_RESERVATION
from devstack.eventually import eventually

from .attempts_support import Sender, reason, sender_of
from .ledger_racing import own_postgres, processes
from .ledger_support import Ids, Tenant

pytestmark = pytest.mark.slow

PEOPLE = 2_000
SENDERS = 24
KILLS = ("ledger", "postgres", "ledger", "postgres")
BETWEEN = 150  # messages sent between two kills


@dataclass
class Office:
    """What all senders share: whom they have sent to, and how it came out."""

    stubs: Sequence[LedgerServiceStub]
    names: Sender
    random: Random
    sent: Counter[int] = field(default_factory=Counter)
    captured: set[int] = field(default_factory=set)
    under_way: set[str] = field(default_factory=set)
    withdrawn: set[str] = field(default_factory=set)
    unanswered: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    async def send(self, stop: asyncio.Event) -> None:
        """As a dispatcher's worker does: who has no answer voids the attempt and never sends on a late yes."""
        while not stop.is_set():
            position = self.random.randrange(PEOPLE)
            attempt = str(UUID(int=self.random.getrandbits(128), version=4))
            asked = self.names.asks(attempt, [(position, position)])
            self.under_way.add(attempt)
            try:
                result = await self.authorize(asked)
            finally:
                self.under_way.discard(attempt)
            if result is None:
                self.unanswered += 1
                await self.void(attempt)
            elif why := reason(result):
                self.refused[why] += 1
            else:
                assert attempt not in self.withdrawn
                await self.finish(position, attempt)

    async def authorize(self, asked: pb.Authorization) -> pb.AuthorizationResult | None:
        stub, timeout = self.random.choice(self.stubs), self.random.choice((0.02, 2.0, 2.0, 2.0))
        try:
            answer = await stub.BatchAuthorize(pb.BatchAuthorizeRequest(authorizations=[asked]), timeout=timeout)
        except grpc.aio.AioRpcError:
            return None
        [result] = answer.results
        return result

    async def finish(self, position: int, attempt: str) -> None:
        """Refused by the provider and void, or sent; then accepted, or nobody knows."""
        chance = self.random.random()
        if chance < 0.3:
            await self.void(attempt)
            return
        self.sent[position] += 1
        if chance < 0.8:
            await self.acknowledged("BatchCapture", pb.BatchCaptureRequest(captures=[self.names.capturing(attempt, 1)]))
            self.captured.add(position)

    async def void(self, attempt: str) -> None:
        void = pb.Void(attempt_id=attempt, **self.names.names)
        await self.acknowledged("BatchVoid", pb.BatchVoidRequest(voids=[void]))

    async def reap(self, stop: asyncio.Event) -> None:
        """Give up attempts that are under way, as if their workers were gone."""
        while not stop.is_set():
            await asyncio.sleep(0.01)
            if not self.under_way:
                continue
            attempt = self.random.choice(sorted(self.under_way))
            named = pb.AttemptRef(attempt_id=attempt, **self.names.names)
            result = await self.acknowledged("BatchWithdraw", pb.BatchWithdrawRequest(attempts=[named]))
            if result.WhichOneof("outcome") == "withdrawn":
                self.withdrawn.add(attempt)

    async def acknowledged(self, method: str, request: Any) -> Any:
        """Repeated until it is answered."""
        async with asyncio.timeout(60):
            while True:
                try:
                    [result] = (await getattr(self.random.choice(self.stubs), method)(request, timeout=5)).results
                except grpc.aio.AioRpcError:
                    await asyncio.sleep(0.05)
                    continue
                assert reason(result) == ""
                return result


@pytest.mark.timeout(300)
async def test_nobody_is_sent_to_twice_though_ledgers_and_databases_are_killed(ids: Ids, tmp_path: Path) -> None:
    async with own_postgres(tmp_path) as postgres, processes(postgres.url, tmp_path, 2) as (stubs, ledgers):
        tenant = await Tenant(stubs[0], ids).open(PEOPLE)
        office = Office(stubs, await sender_of(tenant, PEOPLE), Random(11))
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for _ in range(SENDERS):
                group.create_task(office.send(stop))
            group.create_task(office.reap(stop))
            for number, victim in enumerate(KILLS):
                await more_sent(office)
                target = postgres if victim == "postgres" else ledgers[number // 2 % 2]
                await asyncio.to_thread(target.kill)
                await asyncio.to_thread(target.start)
            await more_sent(office)
            stop.set()
        assert max(office.sent.values()) == 1
        assert office.unanswered > 0
        assert office.withdrawn
        assert office.refused["POSITIONS_TAKEN"] > 0
        assert office.refused["ATTEMPT_ENDED"] > 0
        await tenant.stub.GetBalance(pb.GetBalanceRequest(tenant_id="acme"), wait_for_ready=True)
        sent, captured = len(office.sent), len(office.captured)
        assert await office.names.figures() == (PEOPLE - sent, sent - captured, captured, 0)
        assert await taken(postgres.url) == set(office.sent)
        assert list((await tenant.verify()).differences) == []


async def more_sent(office: Office) -> None:
    goal = office.sent.total() + BETWEEN
    await eventually(lambda: office.sent.total() >= goal, 60)


async def taken(url: str) -> set[int]:
    """The positions that are authorized and not void, as they are stored."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(
            "SELECT generate_series(lower(one), upper(one) - 1) % $1 AS position "
            "FROM authorizations CROSS JOIN unnest(taken) AS one",
            POSITIONS_IN_RESERVATION,
        )
    finally:
        await connection.close()
    return {row["position"] for row in rows}
