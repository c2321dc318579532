"""QueueService: figures, batches, attempts, requeue, rate limits."""
# ruff: noqa: ARG002 - names and parameters are those of the generated base class

from __future__ import annotations

from datetime import timedelta
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from bulksms.dispatcher.v1 import queue_pb2 as pb
from bulksms.dispatcher.v1 import queue_pb2_grpc
from bulksms_dispatcher.domain.batches import NO_CAMPAIGN, Attempt, BatchRecord
from bulksms_dispatcher.domain.protocol import BatchState
from bulksms_dispatcher.domain.rate_limits import Limit, LimitScope
from bulksms_dispatcher.pacing.current import CurrentLimits
from bulksms_dispatcher.pacing.gate import PacingGate
from bulksms_dispatcher.storage import attempts as storage_attempts
from bulksms_dispatcher.storage import queue
from bulksms_dispatcher.use_cases.requeues import Requeue, Requeues
from bulksms_dispatcher.use_cases.resolutions import OperatorResolution, Resolution, Resolutions, no_batch
from servicekit.arguments import ArgumentCheck
from servicekit.database import Database
from servicekit.paging import Listing, position

__all__ = ["QueueServicer"]

Context = Any
MAX_REASON = 500
OPERATOR_METADATA = "x-operator"
_RESOLUTIONS = {pb.RESOLUTION_ACCEPTED: Resolution.ACCEPTED, pb.RESOLUTION_NOT_SENT: Resolution.NOT_SENT}
# The limiter remembers every permit of a window.
MAX_REQUESTS, MAX_MESSAGES, MAX_WINDOW_MS = 10_000, 10_000_000, 3_600_000


class QueueServicer(queue_pb2_grpc.QueueServiceServicer):
    """The contract of each RPC is its comment in the proto."""

    def __init__(
        self,
        database: Database,
        gate: PacingGate,
        limits: CurrentLimits,
        requeues: Requeues,
        resolutions: Resolutions,
    ) -> None:
        self._database = database
        self._gate = gate
        self._limits = limits
        self._resolutions = resolutions
        self._requeues = requeues

    async def GetQueueStats(self, request: pb.GetQueueStatsRequest, context: Context) -> pb.GetQueueStatsResponse:
        check = ArgumentCheck()
        tenant_id = check.passed(check.optional_tenant_id(request.tenant_id))
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
        check = ArgumentCheck()
        campaign_id = check.optional_uuid("campaign_id", request.campaign_id)
        size = check.page_size(request.page_size)
        tenant_id = check.optional_tenant_id(request.tenant_id)
        listing = Listing("batches", tenant_id, campaign_id, request.state)
        before = listing.after(check, request.page_token, position) or 0
        state = check.enum("state", BatchState, request.state)
        check.finish()
        async with self._database.connect() as connection:
            found = await queue.list_batches(
                connection,
                tenant_id=tenant_id,
                campaign_id=campaign_id,
                state=state or 0,
                before=before,
                limit=size + 1,
            )
        return pb.ListBatchesResponse(
            batches=[_batch(record) for record in found[:size]],
            next_page_token=listing.next_token(found, size, lambda record: record.seq),
        )

    async def GetBatch(self, request: pb.GetBatchRequest, context: Context) -> pb.GetBatchResponse:
        check = ArgumentCheck()
        batch_id = check.uuid("batch_id", request.batch_id)
        check.finish()
        async with self._database.connect() as connection:
            record = await queue.find_batch(connection, batch_id)
            attempts = await storage_attempts.list_all(connection, batch_id)
        if record is None:
            raise no_batch(batch_id)
        return pb.GetBatchResponse(batch=_batch(record), attempts=[_attempt(attempt) for attempt in attempts])

    async def ListDeadBatches(self, request: pb.ListDeadBatchesRequest, context: Context) -> pb.ListDeadBatchesResponse:
        check = ArgumentCheck()
        size = check.page_size(request.page_size)
        tenant_id = check.optional_tenant_id(request.tenant_id)
        listing = Listing("dead batches", tenant_id)
        before = listing.after(check, request.page_token, position) or 0
        check.finish()
        async with self._database.connect() as connection:
            found = await queue.list_dead(connection, tenant_id=tenant_id, before=before, limit=size + 1)
        return pb.ListDeadBatchesResponse(
            batches=[_batch(record) for record in found[:size]],
            next_page_token=listing.next_token(found, size, lambda record: record.seq),
        )

    async def RequeueDeadBatch(
        self, request: pb.RequeueDeadBatchRequest, context: Context
    ) -> pb.RequeueDeadBatchResponse:
        check = ArgumentCheck()
        request_id = check.request_id(request.request_id)
        batch_id = check.uuid("batch_id", request.batch_id)
        reason = check.text("reason", request.reason, minimum=1, maximum=MAX_REASON)
        check.finish()
        record = await self._requeues.requeue(Requeue(request_id, batch_id, reason, _operator(context)))
        return pb.RequeueDeadBatchResponse(batch=_batch(record))

    async def ResolveBatch(self, request: pb.ResolveBatchRequest, context: Context) -> pb.ResolveBatchResponse:
        check = ArgumentCheck()
        request_id = check.request_id(request.request_id)
        batch_id = check.uuid("batch_id", request.batch_id)
        known_from = check.text("evidence", request.evidence, minimum=1, maximum=MAX_REASON)
        resolution = _RESOLUTIONS.get(request.resolution)
        if resolution is None:
            check.wrong("resolution", "must be ACCEPTED or NOT_SENT")
        check.finish()
        assert resolution is not None  # noqa: S101 - checked above
        record = await self._resolutions.resolve(
            OperatorResolution(request_id, batch_id, resolution, known_from, _operator(context))
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
        check = ArgumentCheck()
        check.request_id(request.request_id)
        scope = check.required_enum("limit.scope", LimitScope, wanted.scope)
        if wanted.scope == pb.RATE_LIMIT_SCOPE_GLOBAL and wanted.key:
            check.wrong("limit.key", "must be empty for the global limit")
        check.text("limit.key", wanted.key, maximum=64)
        check.number("limit.max_requests", wanted.max_requests, minimum=0, maximum=MAX_REQUESTS)
        check.number("limit.max_messages", wanted.max_messages, minimum=0, maximum=MAX_MESSAGES)
        check.number("limit.window_ms", wanted.window_ms, minimum=1, maximum=MAX_WINDOW_MS)
        check.finish()
        limit = Limit(wanted.max_requests, wanted.max_messages, timedelta(milliseconds=wanted.window_ms))
        await self._limits.change(scope, wanted.key, limit)
        return pb.SetRateLimitResponse(limit=_rate_limit(scope, wanted.key, limit))


def _operator(context: Context) -> str:
    """Who asks, for the audit: who the caller says it is, and where the call comes from."""
    named = [str(value) for key, value in context.invocation_metadata() or () if key == OPERATOR_METADATA]
    return f"{' '.join(named)[:100]} {context.peer()[:100]}".strip().replace("\0", "")


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
