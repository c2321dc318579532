"""What the dispatcher's tests share: peers that remember what was reported, and a dispatcher that runs for real."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import uuid
from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms.campaign.v1 import results_pb2, results_pb2_grpc
from bulksms.dispatcher.v1 import dispatch_pb2, messages_pb2, queue_pb2
from bulksms.dispatcher.v1.dispatch_pb2_grpc import DispatchServiceStub
from bulksms.dispatcher.v1.messages_pb2_grpc import MessageServiceStub
from bulksms.dispatcher.v1.queue_pb2_grpc import QueueServiceStub
from bulksms.ledger.v1 import ledger_pb2_grpc
from bulksms.types.v1 import types_pb2
from bulksms_dispatcher.app import build
from bulksms_dispatcher.domain.batches import LeasedBatch
from bulksms_dispatcher.peers.ledger import LedgerPeer
from bulksms_dispatcher.settings import Settings
from bulksms_dispatcher.storage import claims
from devstack.ledger_stand_in import LedgerStandIn
from devstack.mitto.accepted_log import AcceptedMessage
from devstack.mitto.client import Simulator
from servicekit import errors
from servicekit.grpc.client import open_channel
from servicekit.grpc.errors import from_rpc_error
from servicekit.grpc.server import GrpcServer, build_server
from servicekit.lifecycle import running
from servicekit.settings import Endpoint, ServiceSettings

TENANT = "acme"
ACCOUNT = "7c8b0a52-33a1-4a36-a1b0-0f61b1c2d3e4"
Outcome = results_pb2.RecipientOutcome


def busiest_window(times: Sequence[float], window: timedelta) -> int:
    """Most events in any half-open window of this length."""
    ordered = sorted(times)
    length = window.total_seconds()
    return max(bisect_right(ordered, start + length - 1e-6) - i for i, start in enumerate(ordered))


class Provider(Simulator):
    """The simulator of this run as one test sees it: what earlier tests had accepted is left out."""

    def __init__(self, running: Simulator) -> None:
        super().__init__(running.address, running.log_path)
        self.reset()
        self.set_behaviour()
        self._start = self.stats().log_bytes

    def accepted(self, start: int = 0) -> Iterator[AcceptedMessage]:
        return super().accepted(max(start, self._start))

    def times_accepted(self) -> Counter[int]:
        """How often each destination was really accepted → how many destinations."""
        per_destination = Counter(message.destination for message in self.accepted())
        return Counter(per_destination.values())


class CampaignPeer(results_pb2_grpc.ResultServiceServicer):
    """Keeps the last outcome of each recipient, and everything that was reported to it."""

    def __init__(self) -> None:
        self.results: list[results_pb2.RecordBatchResultRequest] = []
        self.refuse_with: errors.DomainError | None = None
        self.final: dict[str, results_pb2.DeliveryReport] = {}
        self.awaited_calls = 0

    async def ListAwaitedReports(self, request: Any, context: Any) -> Any:
        self.awaited_calls += 1
        awaited = sorted(
            (phone, message_id)
            for reported in self.results
            for group in reported.groups
            if (reported.campaign_id, reported.enqueue_number) == (request.campaign_id, request.enqueue_number)
            for phone, message_id in zip(group.phones, group.provider_message_ids, strict=False)
            if request.after_phone < phone <= request.last_phone and message_id not in self.final
        )[: request.page_size]
        return results_pb2.ListAwaitedReportsResponse(
            phones=[phone for phone, _ in awaited], provider_message_ids=[message_id for _, message_id in awaited]
        )

    async def RecordDeliveryReports(self, request: Any, context: Any) -> Any:
        known = {
            message_id
            for reported in self.results
            if request.tenant_id in ("", reported.tenant_id)
            for group in reported.groups
            for message_id in group.provider_message_ids
        }
        self.final |= {
            report.provider_message_id: report for report in request.reports if report.provider_message_id in known
        }
        return results_pb2.RecordDeliveryReportsResponse(
            unknown_indexes=[i for i, report in enumerate(request.reports) if report.provider_message_id not in known]
        )

    async def RecordBatchResult(self, request: Any, context: Any) -> Any:
        if self.refuse_with is not None:
            raise self.refuse_with
        self.results.append(request)
        return results_pb2.RecordBatchResultResponse(changed=1)

    @property
    def recipients(self) -> dict[int, tuple[str, str, str]]:
        """Phone → (outcome, reason, message id): a definite outcome is not overwritten by an ambiguous one."""
        folded: dict[int, tuple[str, str, str]] = {}
        for request in self.results:
            for group in request.groups:
                name = Outcome.Name(group.outcome).removeprefix("RECIPIENT_OUTCOME_")
                reason = types_pb2.OutcomeReason.Name(group.reason).removeprefix("OUTCOME_REASON_")
                reason = "" if reason == "UNSPECIFIED" else reason
                ids = group.provider_message_ids or [""] * len(group.phones)
                for phone, message_id in zip(group.phones, ids, strict=True):
                    if phone in folded and name == "AMBIGUOUS":
                        continue
                    folded[phone] = (name, reason, message_id)
        return folded

    @property
    def outcomes(self) -> Counter[str]:
        """How many recipients have which outcome."""
        return Counter(outcome for outcome, _, _ in self.recipients.values())


@dataclass
class Peers:
    """The other services, in this process."""

    campaign: CampaignPeer = field(default_factory=CampaignPeer)
    ledger: LedgerStandIn = field(default_factory=LedgerStandIn)
    address: str = ""

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Peers]:
        server = build_server(
            ServiceSettings.model_validate({"grpc_listen": Endpoint("127.0.0.1", 0), "shutdown_grace_seconds": 0.2}),
            [
                (results_pb2_grpc.add_ResultServiceServicer_to_server, self.campaign, "campaign"),
                (ledger_pb2_grpc.add_LedgerServiceServicer_to_server, self.ledger, "ledger"),
            ],
        )
        async with running([server]):
            self.address = server.address
            yield self


class DirectLedger:
    """A stub of the ledger that calls a stand-in without a server between: for parts that are tested by themselves."""

    def __init__(self, stand_in: LedgerStandIn) -> None:
        self._stand_in = stand_in

    def __getattr__(self, method: str) -> Any:
        async def call(request: Any, timeout: float) -> Any:  # noqa: ASYNC109 - as a stub has it
            return await getattr(self._stand_in, method)(request, None)

        return call


def ledger_peer(stand_in: LedgerStandIn) -> LedgerPeer:
    """What a dispatcher calls the ledger with, answered by a stand-in at once."""
    return LedgerPeer(DirectLedger(stand_in))  # type: ignore[arg-type]


@dataclass
class Dispatcher:
    """A running dispatcher and its clients."""

    address: str
    dispatch: DispatchServiceStub
    queue: QueueServiceStub
    messages: MessageServiceStub

    async def batches(self, **filters: Any) -> list[queue_pb2.Batch]:
        """All batches, oldest first."""
        response = await self.queue.ListBatches(queue_pb2.ListBatchesRequest(page_size=1000, **filters))
        return list(reversed(response.batches))

    async def states(self) -> Counter[str]:
        """How many batches are in which state."""
        names = [queue_pb2.BatchState.Name(batch.state) for batch in await self.batches()]
        return Counter(name.removeprefix("BATCH_STATE_") for name in names)

    async def pause(self, head: dispatch_pb2.SubmissionHeader) -> dispatch_pb2.PauseCampaignResponse:
        """Hold the campaign of a submission back."""
        return await self.dispatch.PauseCampaign(dispatch_pb2.PauseCampaignRequest(**naming(head)))

    async def resume(self, head: dispatch_pb2.SubmissionHeader) -> dispatch_pb2.ResumeCampaignResponse:
        """Let it go on."""
        return await self.dispatch.ResumeCampaign(dispatch_pb2.ResumeCampaignRequest(**naming(head)))

    async def hold(self, head: dispatch_pb2.SubmissionHeader) -> dispatch_pb2.GetCampaignHoldResponse:
        """What holds the campaign of a submission."""
        request = dispatch_pb2.GetCampaignHoldRequest(tenant_id=head.tenant_id, campaign_id=head.campaign_id)
        return await self.dispatch.GetCampaignHold(request)

    async def attempts(self, batch_id: str) -> list[queue_pb2.Attempt]:
        response = await self.queue.GetBatch(queue_pb2.GetBatchRequest(batch_id=batch_id))
        return list(response.attempts)


def settings_for(
    database: str, redis: str, key_prefix: str, simulator_url: str, peers: Peers, journal: Path, **changes: Any
) -> Settings:
    """A dispatcher that looks at everything often."""
    values: dict[str, Any] = {
        "grpc_listen": Endpoint("127.0.0.1", 0),
        "database_url": SecretStr(database),
        "redis_url": SecretStr(redis),
        "redis_key_prefix": key_prefix,
        "campaign_address": peers.address,
        "ledger_address": peers.address,
        "mitto_base_url": simulator_url,
        "mitto_api_key": SecretStr("key"),
        "mitto_traffic_account_id": ACCOUNT,
        "sms_batch_size": 10,
        "queue_backoff": 0.05,
        "account_pause_seconds": 0.1,
        "probe_after_seconds": 0.1,
        # So that a busy machine is not taken for a silent provider; tests move leases in the database.
        "mitto_soft_timeout_seconds": 10.0,
        "mitto_hard_timeout_seconds": 20.0,
        "lease_seconds": 20.0,
        "worker_concurrency": 4,
        "shutdown_grace_seconds": 5.0,
        "rate_limit_traffic_account_max": "unlimited",
        "rate_limit_tenant_max": "unlimited",
        "deferred_recheck_seconds": 0.3,
        "journal_path": journal,
    }
    return Settings(**values | changes)


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Dispatcher]:
    """The whole service in this process."""
    components = await build(settings)
    async with running(components):
        server = components[-1]
        assert isinstance(server, GrpcServer)
        channel = open_channel(server.address)
        try:
            yield Dispatcher(
                server.address,
                DispatchServiceStub(channel),
                QueueServiceStub(channel),
                MessageServiceStub(channel),
            )
        finally:
            await channel.close()


@contextmanager
def process(settings: Settings) -> Iterator[subprocess.Popen[bytes]]:
    """The service as a process of its own, on the same servers."""
    environment = {name.upper(): _as_variable(value) for name, value in settings if value is not None}
    running = subprocess.Popen(
        [sys.executable, "-m", "bulksms_dispatcher", "serve"],
        env={**os.environ, **environment, "LOG_LEVEL": "ERROR"},
        stdout=subprocess.DEVNULL,
    )
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def _as_variable(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return ",".join(value) if isinstance(value, tuple) and not isinstance(value, Endpoint) else str(value)


def header(**changes: Any) -> dispatch_pb2.SubmissionHeader:
    """A submission of its own campaign."""
    values: dict[str, Any] = {
        "submission_id": str(uuid.uuid4()),
        "tenant_id": TENANT,
        "campaign_id": str(uuid.uuid4()),
        "enqueue_number": 1,
        "reservation_id": str(uuid.uuid4()),
        "text": "Hello",
        "sender": "Astronote",
        "snapshot_digest": b"who stands where",
    }
    return dispatch_pb2.SubmissionHeader(**values | changes)


def naming(head: dispatch_pb2.SubmissionHeader) -> dict[str, str]:
    """What names the campaign of a submission in a new request."""
    return {"request_id": str(uuid.uuid4()), "tenant_id": head.tenant_id, "campaign_id": head.campaign_id}


def phones(count: int, first: int = 306_900_000_000) -> list[int]:
    return [first + number for number in range(count)]


def chunks(
    numbers: Sequence[int], *, first_index: int = 0, size: int = 100, values: Sequence[str] = ()
) -> list[dispatch_pb2.SubmitRequest]:
    """Recipients as the stream carries them."""
    width = len(values) // len(numbers) if numbers else 0
    return [
        dispatch_pb2.SubmitRequest(
            chunk=dispatch_pb2.RecipientChunk(
                first_index=first_index + start,
                phones=numbers[start : start + size],
                values=values[start * width : (start + size) * width],
            )
        )
        for start in range(0, len(numbers), size)
    ]


def stream(
    head: dispatch_pb2.SubmissionHeader, parts: Iterable[dispatch_pb2.SubmitRequest], end: int | None
) -> AsyncIterator[dispatch_pb2.SubmitRequest]:
    """A whole submission; without an end when `end` is None."""
    last = [] if end is None else [dispatch_pb2.SubmitRequest(end=dispatch_pb2.SubmissionEnd(recipients=end))]
    requests = itertools.chain([dispatch_pb2.SubmitRequest(header=head)], parts, last)

    async def generate() -> AsyncIterator[dispatch_pb2.SubmitRequest]:
        for request in requests:
            yield request

    return generate()


async def submit(
    dispatcher: Dispatcher,
    numbers: Sequence[int],
    head: dispatch_pb2.SubmissionHeader | None = None,
    values: Sequence[str] = (),
) -> dispatch_pb2.SubmissionHeader:
    """Submit a whole campaign."""
    head = head or header()
    response = await dispatcher.dispatch.Submit(stream(head, chunks(numbers, values=values), len(numbers)))
    assert response.recipients == len(numbers)
    return head


async def arm_as(connection: AsyncConnection, batch: LeasedBatch, worker: str) -> bool:
    """Arm a claimed batch as its worker does."""
    return await claims.arm(
        connection,
        replace(batch.key, attempt_id=batch.attempt_id or uuid.uuid4()),
        worker,
        account=ACCOUNT,
        lease=timedelta(minutes=1),
        opt_out_version=0,
        opted_out_positions=None,
        traceparent="",
    )


def why(message: queue_pb2.Batch | queue_pb2.Attempt | messages_pb2.Message) -> str:
    """The name of its reason; empty for none."""
    return types_pb2.OutcomeReason.Name(message.reason).removeprefix("OUTCOME_REASON_") if message.reason else ""


def outcome_of(attempt: queue_pb2.Attempt) -> str:
    """The name of what it came to."""
    return queue_pb2.AttemptOutcome.Name(attempt.outcome).removeprefix("ATTEMPT_OUTCOME_")


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """The machine reason an RPC failed with."""
    return from_rpc_error(error).reason
