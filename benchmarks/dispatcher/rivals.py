"""Two dispatchers on one queue, a provider that takes its time, and when it had accepted what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from uuid import uuid4

import asyncpg

from benchmarks.dispatcher.processes import Bench
from benchmarks.dispatcher.throughput import submit, until
from bulksms.dispatcher.v1 import dispatch_pb2, messages_pb2
from bulksms.dispatcher.v1.dispatch_pb2_grpc import DispatchServiceStub
from bulksms.dispatcher.v1.messages_pb2_grpc import MessageServiceStub
from devstack.mitto.accepted_log import read_records
from devstack.mitto.behaviours import Behaviour, Latency
from devstack.mitto.process import SimulatorProcess
from devstack.mitto.rules import Rule
from devstack.mitto.wire import decode_messages
from servicekit.grpc.client import open_channel

REPLICAS = 2
_POLL_SECONDS = 0.02
_MESSAGE_TIMEOUT_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Queue:
    """What the scenarios of this kind run on; calls go to the replicas in turn."""

    database_url: str
    accepted_log: Path
    dispatch: Iterator[DispatchServiceStub]
    messages: Iterator[MessageServiceStub]

    async def fill(self, headers: Sequence[dispatch_pb2.SubmissionHeader], recipients: int, phones: range) -> None:
        """Store a submission of so many recipients for each header; nothing of them is sent before `release`."""
        for header, first in zip(headers, phones[::recipients], strict=True):
            await next(self.dispatch).PauseCampaign(
                dispatch_pb2.PauseCampaignRequest(
                    request_id=str(uuid4()), tenant_id=header.tenant_id, campaign_id=header.campaign_id
                )
            )
            await submit(next(self.dispatch), header, recipients, first)

    async def release(self, headers: Sequence[dispatch_pb2.SubmissionHeader]) -> None:
        """Let them be sent."""
        requests = [
            dispatch_pb2.ResumeCampaignRequest(
                request_id=str(uuid4()), tenant_id=header.tenant_id, campaign_id=header.campaign_id
            )
            for header in headers
        ]
        await asyncio.gather(*(next(self.dispatch).ResumeCampaign(request) for request in requests))

    async def send_one(self, tenant_id: str, phone: int) -> None:
        """One urgent message; returns when its outcome is known."""
        request = messages_pb2.SendMessageRequest(
            request_id=str(uuid4()), tenant_id=tenant_id, phone=f"+{phone}", text="Your code: 123456", sender="Acme"
        )
        await next(self.messages).SendMessage(request, timeout=_MESSAGE_TIMEOUT_SECONDS)

    async def moments(self, campaign_id: str, count: int) -> AsyncIterator[int]:
        """So many moments, evenly spread over a campaign's batches as they are accepted."""
        connection = await asyncpg.connect(self.database_url)
        try:
            batches = await connection.fetchval("SELECT count(*) FROM batches WHERE campaign_id = $1", campaign_id)
            accepted = 0
            for number in range(count):
                while accepted < batches * (number + 0.5) / count:
                    await asyncio.sleep(_POLL_SECONDS)
                    accepted = await connection.fetchval(
                        "SELECT count(*) FROM batches WHERE campaign_id = $1 AND state = 4", campaign_id
                    )
                yield number
        finally:
            await connection.close()

    async def drained(self) -> None:
        """Return when everything has been accepted."""
        await until(self.database_url, "SELECT NOT EXISTS (SELECT FROM batches WHERE state <> 4)")

    def accepted_at(self, since: float, expected: int) -> dict[int, float]:
        """When the provider accepted each number, by its clock; AssertionError unless each was accepted once."""
        at: dict[int, float] = {}
        messages = 0
        with self.accepted_log.open("rb") as log:
            for record in read_records(self.accepted_log):
                header = record.header
                if header.received_at < since:
                    continue
                log.seek(record.offset)
                sent = header.select(decode_messages(header.path, log.read(header.bytes)))
                at.update((int(message.destination), header.received_at) for message in sent)
                messages += len(sent)
        assert messages == len(at) == expected, f"{messages} messages to {len(at)} numbers, {expected} were asked for"
        return at


@asynccontextmanager
async def queue(bench: Bench, name: str, batch_size: int, latency_seconds: float) -> AsyncIterator[Queue]:
    """Its own database, provider and dispatchers."""
    url = await bench.new_database(name)
    async with AsyncExitStack() as stack:
        folder = bench.folder / name
        folder.mkdir()
        simulator = stack.enter_context(SimulatorProcess(folder))
        slow = Behaviour(latency=Latency(constant_seconds=latency_seconds))
        simulator.control.set_behaviour(rules=[Rule(slow)])
        own = replace(bench, simulator=simulator, simulator_url=simulator.base_url)
        channels = []
        for _ in range(REPLICAS):
            _, address = stack.enter_context(own.dispatcher(url, batch_size))
            channels.append(open_channel(address))
            stack.push_async_callback(channels[-1].close)
        yield Queue(
            url,
            simulator.log_path,
            cycle([DispatchServiceStub(channel) for channel in channels]),
            cycle([MessageServiceStub(channel) for channel in channels]),
        )
