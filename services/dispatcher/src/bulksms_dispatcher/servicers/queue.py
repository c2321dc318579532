"""QueueService: figures, batches, attempts, requeue, rate limits."""
# ruff: noqa: ARG002 - names and parameters are those of the generated base class

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from bulksms.dispatcher.v1 import queue_pb2 as pb
from bulksms.dispatcher.v1 import queue_pb2_grpc
from bulksms_dispatcher.arguments import Arguments
from bulksms_dispatcher.batches import NO_CAMPAIGN, Attempt, BatchRecord
from bulksms_dispatcher.pacing.current import CurrentLimits
from bulksms_dispatcher.pacing.gate import PacingGate
from bulksms_dispatcher.pacing.limits import Limit, LimitScope
from bulksms_dispatcher.protocol import BatchState
from bulksms_dispatcher.resolutions import OperatorsWord, Resolutions, Word, no_batch
from bulksms_dispatcher.storage import queue
from servicekit import errors
from servicekit.database import Database

__all__ = ["QueueServicer"]

Context = Any
_REQUEUE = "REQUEUE"
MAX_REASON = 500
OPERATOR_METADATA = "x-operator"
_WORDS = {pb.RESOLUTION_ACCEPTED: Word.ACCEPTED, pb.RESOLUTION_NOT_SENT: Word.NOT_SENT}
# The limiter remembers every permit of a window.
MAX_REQUESTS, MAX_MESSAGES, MAX_WINDOW_MS = 10_000, 10_000_000, 3_600_000


class QueueServicer(queue_pb2_grpc.QueueServiceServicer):
    """The contract of each RPC is its comment in the proto."""

    def __init__(
        self,
        database: Database,
        gate: PacingGate,
        limits: CurrentLimits,
        resolutions: Resolutions,
        wake: Callable[[], Awaitable[None]],
    ) -> None:
        self._database = database
        self._gate = gate
        self._limits = limits
        self._resolutions = resolutions
        self._wake = wake

    async def GetQueueStats(self, request: pb.GetQueueStatsRequest, context: Context) -> pb.GetQueueStatsResponse:
        tenant_id = _tenant_filter(request.tenant_id)
        async with self._database.connect() as connection:
            lanes = await queue.read_depth(connection, tenant_id)
            figures = await queue.read_figures(connection, tenant_id)
        return pb.GetQueueStatsResponse(
            lanes=[
                pb.LaneDepth(
                    state=pb.BatchState.ValueType(lane.state),
                    priority=lane.priority,  # type: ignore[arg-type] # the table holds the enum's numbers
                    batches=lane.batches,
                    recipients=lane.recipients,
                )
                for lane in lanes
            ],
            oldest_ready_seconds=figures.oldest_ready_seconds,
            accepted_per_second=figures.accepted_per_second,
            workers_alive=figures.workers_alive,
            outbox_pending=figures.outbox_pending,
            pacing_available=self._gate.is_open,
        )

    async def ListBatches(self, request: pb.ListBatchesRequest, context: Context) -> pb.ListBatchesResponse:
        arguments = Arguments()
        campaign_id = arguments.optional_uuid("campaign_id", request.campaign_id)
        size = arguments.page_size(request.page_size)
        before = arguments.number_token(request.page_token)
        if request.state not in pb.BatchState.values():
            arguments.reject("state", "must be one of the enum's values")
        arguments.check()
        async with self._database.connect() as connection:
            found = await queue.list_batches(
                connection,
                tenant_id=_tenant_filter(request.tenant_id),
                campaign_id=campaign_id,
                state=request.state,
                before=before,
                limit=size + 1,
            )
        return pb.ListBatchesResponse(
            batches=[_batch(record) for record in found[:size]], next_page_token=_next_token(found, size)
        )

    async def GetBatch(self, request: pb.GetBatchRequest, context: Context) -> pb.GetBatchResponse:
        arguments = Arguments()
        batch_id = arguments.uuid("batch_id", request.batch_id)
        arguments.check()
        async with self._database.connect() as connection:
            record = await queue.find_batch(connection, batch_id)
            attempts = await queue.list_attempts(connection, batch_id)
        if record is None:
            raise no_batch(batch_id)
        return pb.GetBatchResponse(batch=_batch(record), attempts=[_attempt(attempt) for attempt in attempts])

    async def ListDeadBatches(self, request: pb.ListDeadBatchesRequest, context: Context) -> pb.ListDeadBatchesResponse:
        arguments = Arguments()
        size = arguments.page_size(request.page_size)
        before = arguments.number_token(request.page_token)
        arguments.check()
        async with self._database.connect() as connection:
            found = await queue.list_dead(
                connection, tenant_id=_tenant_filter(request.tenant_id), before=before, limit=size + 1
            )
        return pb.ListDeadBatchesResponse(
            batches=[_batch(record) for record in found[:size]], next_page_token=_next_token(found, size)
        )

    async def RequeueDeadBatch(
        self, request: pb.RequeueDeadBatchRequest, context: Context
    ) -> pb.RequeueDeadBatchResponse:
        arguments = Arguments()
        request_id = arguments.uuid("request_id", request.request_id)
        batch_id = arguments.uuid("batch_id", request.batch_id)
        reason = arguments.text("reason", request.reason, most=MAX_REASON)
        arguments.check()
        async with self._database.begin() as connection:
            done_for = await queue.operation_batch(connection, request_id, _REQUEUE)
            if done_for is not None and done_for != batch_id:
                raise errors.already_exists(
                    "REQUEST_ID_REUSED",
                    "This request id requeued another batch: use a new one.",
                    differs="batch_id",
                )
            if done_for is None:
                if not await queue.requeue_dead(connection, batch_id):
                    raise _not_dead(batch_id, await queue.find_batch(connection, batch_id))
                await queue.save_operation(connection, request_id, _REQUEUE, batch_id, reason, _operator(context))
            record = await queue.find_batch(connection, batch_id)
        if record is None:
            raise no_batch(batch_id)
        await self._wake()
        return pb.RequeueDeadBatchResponse(batch=_batch(record))

    async def ResolveBatch(self, request: pb.ResolveBatchRequest, context: Context) -> pb.ResolveBatchResponse:
        arguments = Arguments()
        request_id = arguments.uuid("request_id", request.request_id)
        batch_id = arguments.uuid("batch_id", request.batch_id)
        known_from = arguments.text("evidence", request.evidence, most=MAX_REASON)
        word = _WORDS.get(request.resolution)
        if word is None:
            arguments.reject("resolution", "must be ACCEPTED or NOT_SENT")
        arguments.check()
        assert word is not None  # noqa: S101 - checked above
        record = await self._resolutions.resolve(
            OperatorsWord(request_id, batch_id, word, known_from, _operator(context))
        )
        return pb.ResolveBatchResponse(batch=_batch(record))

    async def GetRateLimits(self, request: pb.GetRateLimitsRequest, context: Context) -> pb.GetRateLimitsResponse:
        limits = await self._limits.read()
        shown = {(scope, ""): limit for scope, limit in limits.defaults.items()} | dict(limits.overrides)
        return pb.GetRateLimitsResponse(
            limits=[_rate_limit(scope, key, limit) for (scope, key), limit in sorted(shown.items())]
        )

    async def SetRateLimit(self, request: pb.SetRateLimitRequest, context: Context) -> pb.SetRateLimitResponse:
        wanted = request.limit
        arguments = Arguments()
        arguments.uuid("request_id", request.request_id)
        if int(wanted.scope) not in set(map(int, LimitScope)):
            arguments.reject("limit.scope", "must be set")
        if wanted.scope == pb.RATE_LIMIT_SCOPE_GLOBAL and wanted.key:
            arguments.reject("limit.key", "must be empty for the global limit")
        arguments.text("limit.key", wanted.key, most=64, least=0)
        if not 0 <= wanted.max_requests <= MAX_REQUESTS:
            arguments.reject("limit.max_requests", f"must be 0 (no limit) to {MAX_REQUESTS}")
        if not 0 <= wanted.max_messages <= MAX_MESSAGES:
            arguments.reject("limit.max_messages", f"must be 0 (no limit) to {MAX_MESSAGES}")
        if not 1 <= wanted.window_ms <= MAX_WINDOW_MS:
            arguments.reject("limit.window_ms", f"must be 1 to {MAX_WINDOW_MS}")
        arguments.check()
        scope = LimitScope(wanted.scope)
        limit = Limit(wanted.max_requests, wanted.max_messages, timedelta(milliseconds=wanted.window_ms))
        await self._limits.change(scope, wanted.key, limit)
        return pb.SetRateLimitResponse(limit=_rate_limit(scope, wanted.key, limit))


def _operator(context: Context) -> str:
    """Who asks, for the audit: who the caller says it is, and where the call comes from."""
    named = [str(value) for key, value in context.invocation_metadata() or () if key == OPERATOR_METADATA]
    return f"{' '.join(named)[:100]} {context.peer()[:100]}".strip().replace("\0", "")


def _tenant_filter(tenant_id: str) -> str:
    if tenant_id:
        arguments = Arguments()
        arguments.tenant(tenant_id)
        arguments.check()
    return tenant_id


def _next_token(found: Sequence[BatchRecord], size: int) -> str:
    return str(found[size - 1].seq) if len(found) > size else ""


def _batch(record: BatchRecord) -> pb.Batch:
    message = pb.Batch(
        batch_id=str(record.batch_id),
        tenant_id=record.tenant_id,
        campaign_id="" if record.campaign_id == NO_CAMPAIGN else str(record.campaign_id),
        submission_id=str(record.submission_id),
        number=record.number,
        recipients=record.recipients,
        state=pb.BatchState.ValueType(record.state),
        priority=record.priority,  # type: ignore[arg-type] # the table holds the enum's numbers
        epoch=record.epoch,
        attempts=record.attempts,
        bulk_id=record.bulk_id,
        reason=record.reason,
    )
    message.not_before.FromDatetime(record.not_before)
    message.created_at.FromDatetime(record.created_at)
    message.updated_at.FromDatetime(record.updated_at)
    return message


def _attempt(attempt: Attempt) -> pb.Attempt:
    message = pb.Attempt(
        number=attempt.number,
        epoch=attempt.epoch,
        worker=attempt.worker,
        outcome=attempt.outcome,
        reason=attempt.reason,
        http_status=attempt.http_status,
    )
    for field, value in ((message.armed_at, attempt.armed_at), (message.ended_at, attempt.ended_at)):
        if value is not None:
            stamp: Timestamp = field
            stamp.FromDatetime(value)
    return message


def _rate_limit(scope: LimitScope, key: str, limit: Limit) -> pb.RateLimit:
    return pb.RateLimit(
        scope=pb.RateLimitScope.ValueType(scope),
        key=key,
        max_requests=limit.max_requests,
        max_messages=limit.max_messages,
        window_ms=limit.window // timedelta(milliseconds=1),
    )


def _not_dead(batch_id: UUID, record: BatchRecord | None) -> errors.DomainError:
    if record is None:
        return no_batch(batch_id)
    return errors.wrong_state(
        "BATCH_STATE",
        f"Only a DEAD batch can be requeued, this one is {record.state.name}.",
        state=record.state.name,
        allowed=BatchState.DEAD.name,
    )
