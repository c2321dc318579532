"""Through the whole service: recipients streamed in, batches sent to the simulator, results reported to the peers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import psutil

from benchmarks.dispatcher.processes import Bench
from benchmarks.report import Figure, Meter
from bulksms.dispatcher.v1 import dispatch_pb2 as pb
from bulksms.dispatcher.v1.dispatch_pb2_grpc import DispatchServiceStub
from bulksms.types.v1 import types_pb2
from devstack.eventually import eventually
from servicekit.grpc.client import open_channel

_CHUNK = 5000
FIRST_PHONE = 306_900_000_000
_PATIENCE_SECONDS = 600
_POLL_SECONDS = 0.05
TEXT = "Hello {{first_name}}, our spring sale begins today. Show this message for 20% off. acme.example/spring"


async def whole_way(bench: Bench, recipients: int, batch_size: int) -> list[Figure]:
    """One campaign in two parts: taken in while it is paused, then sent and reported."""
    url = await bench.new_database(f"throughput_{recipients}")
    with bench.dispatcher(url, batch_size) as (process, address):
        pid, simulator, peers = process.pid or 0, bench.simulator.pid, bench.peers.pid or 0
        channel = open_channel(address)
        stub = DispatchServiceStub(channel)
        memory = MemoryWatch(pid)
        watching = asyncio.create_task(memory.run())
        try:
            await submit(stub, header_for(), 1)  # connections opened, statements prepared
            await until(url, "SELECT NOT EXISTS (SELECT FROM outbox) AND EXISTS (SELECT FROM batches WHERE state = 4)")
            memory.note("idle")
            header = header_for()
            campaign = {"tenant_id": header.tenant_id, "campaign_id": header.campaign_id}
            await stub.PauseCampaign(pb.PauseCampaignRequest(request_id=str(uuid4()), **campaign))
            meter = Meter(dispatcher=pid, postgres=bench.postgres_pid)
            await submit(stub, header, recipients)
            taken = meter.figure("intake: stream in, cut, store", recipients)
            memory.note("intake")
            meter = Meter(dispatcher=pid, postgres=bench.postgres_pid, simulator=simulator, peers=peers)
            await stub.ResumeCampaign(pb.ResumeCampaignRequest(request_id=str(uuid4()), **campaign))
            await until(url, "SELECT NOT EXISTS (SELECT FROM batches WHERE state <> 4)")
            sent = meter.figure("send: claim, render, arm, POST, record", recipients)
            await until(url, "SELECT NOT EXISTS (SELECT FROM outbox)")
            reported = meter.figure("send and report: until campaign and ledger have heard of all", recipients)
            memory.note("send and report")
        finally:
            watching.cancel()
            await channel.close()
    whole = Figure(
        f"whole way, {recipients:,} recipients",
        recipients,
        round(taken.seconds + reported.seconds, 3),
        cpu_us={name: round(taken.cpu_us.get(name, 0) + spent, 2) for name, spent in reported.cpu_us.items()},
        peak_mb=memory.peak_mb,
    )
    return [taken, sent, reported, whole]


class MemoryWatch:
    """Most resident memory of a process, by what it was doing."""

    def __init__(self, pid: int) -> None:
        self.peak_mb: dict[str, float] = {}
        self._process = psutil.Process(pid)
        self._peak = 0

    def note(self, stage: str) -> None:
        """End a stage."""
        self._look()
        self.peak_mb[stage] = round(self._peak / 1e6, 1)
        self._peak = 0

    async def run(self) -> None:
        """Look all the time."""
        while True:
            self._look()
            await asyncio.sleep(_POLL_SECONDS)

    def _look(self) -> None:
        self._peak = max(self._peak, self._process.memory_info().rss)


async def submit(
    stub: DispatchServiceStub, header: pb.SubmissionHeader, recipients: int, first: int = FIRST_PHONE
) -> None:
    """Stream a submission as the campaign service does."""

    async def parts() -> AsyncIterator[pb.SubmitRequest]:
        yield pb.SubmitRequest(header=header)
        for start in range(0, recipients, _CHUNK):
            size = min(_CHUNK, recipients - start)
            yield pb.SubmitRequest(
                chunk=pb.RecipientChunk(
                    first_index=start,
                    phones=range(first + start, first + start + size),
                    values=[f"Maria{number % 1000}" for number in range(start, start + size)],
                )
            )
        yield pb.SubmitRequest(end=pb.SubmissionEnd(recipients=recipients))

    await stub.Submit(parts(), timeout=_PATIENCE_SECONDS)


def header_for(
    tenant_id: str = "acme", priority: types_pb2.Priority.ValueType = types_pb2.PRIORITY_NORMAL
) -> pb.SubmissionHeader:
    return pb.SubmissionHeader(
        submission_id=str(uuid4()),
        tenant_id=tenant_id,
        campaign_id=str(uuid4()),
        enqueue_number=1,
        reservation_id=str(uuid4()),
        text=TEXT,
        variable_names=["first_name"],
        sender="Acme",
        priority=priority,
        snapshot_digest=b"one phone after the other",
    )


async def until(url: str, question: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await eventually(lambda: connection.fetchval(question), _PATIENCE_SECONDS, every_seconds=_POLL_SECONDS)
    finally:
        await connection.close()
