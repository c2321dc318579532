"""QueueService: figures, batches, attempts, resolutions, stops, rate limits."""
# ruff: noqa: ARG002 - names and parameters are those of the generated base class

from __future__ import annotations

from datetime import timedelta
from typing import Any

from bulksms.dispatcher.v1 import queue_pb2 as pb
from bulksms.dispatcher.v1 import queue_pb2_grpc
from bulksms_dispatcher.domain.messages import MessageClass
from bulksms_dispatcher.domain.protocol import BatchState
from bulksms_dispatcher.domain.rate_limits import Limit, LimitScope
from bulksms_dispatcher.domain.stops import StopKey, StopScope
from bulksms_dispatcher.pacing.current import CurrentLimits
from bulksms_dispatcher.pacing.gate import PacingGate
from bulksms_dispatcher.servicers.queue_views import (
    attempt_view,
    batch_view,
    duration,
    hold_views,
    rate_limit_view,
    stop_view,
)
from bulksms_dispatcher.storage import account_holds, queue, stops
from bulksms_dispatcher.storage import attempts as storage_attempts
from bulksms_dispatcher.use_cases.resolutions import OperatorResolution, Resolution, Resolutions, no_batch
from bulksms_dispatcher.use_cases.sending_control import SendingControl, StopOrder
from servicekit.arguments import ArgumentCheck
from servicekit.database import Database
from servicekit.paging import Listing, position

__all__ = ["QueueServicer"]

Context = Any
MAX_REASON = 500
MAX_KEY = 64
OPERATOR_METADATA = "x-operator"
_RESOLUTIONS = {pb.RESOLUTION_ACCEPTED: Resolution.ACCEPTED, pb.RESOLUTION_NOT_SENT: Resolution.NOT_SENT}
# The limiter remembers every permit of a window.
MAX_REQUESTS, MAX_MESSAGES, MAX_WINDOW = 10_000, 10_000_000, timedelta(hours=1)
_MILLISECOND = timedelta(milliseconds=1)


class QueueServicer(queue_pb2_grpc.QueueServiceServicer):
    """The contract of each RPC is its comment in the proto."""

    def __init__(
        self,
        database: Database,
        gate: PacingGate,
        limits: CurrentLimits,
        resolutions: Resolutions,
        sending: SendingControl,
        *,
        traffic_account_id: str,
    ) -> None:
        self._database = database
        self._account = traffic_account_id
        self._gate = gate
        self._limits = limits
        self._resolutions = resolutions
        self._sending = sending
        self._account = traffic_account_id

    async def GetQueueStats(self, request: pb.GetQueueStatsRequest, context: Context) -> pb.GetQueueStatsResponse:
        check = ArgumentCheck()
        tenant_id = check.passed(check.optional_tenant_id(request.tenant_id))
        async with self._database.connect() as connection:
            lanes = await queue.read_depth(connection, tenant_id)
            figures = await queue.read_figures(connection, tenant_id, self._account)
            holds = await account_holds.read(connection, self._account)
            in_force = await (
                stops.read_of_tenant(connection, tenant_id, self._account) if tenant_id else stops.read_all(connection)
            )
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
            oldest_ready_age=duration(figures.oldest_ready_seconds),
            accepted_per_second=figures.accepted_per_second,
            workers_alive=figures.workers_alive,
            outbox_pending=figures.outbox_pending,
            pacing_available=self._gate.is_open,
            holds=hold_views(self._account, holds.state, tenant_id),
            stops=map(stop_view, in_force),
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
                account=self._account,
            )
        return pb.ListBatchesResponse(
            batches=[batch_view(record) for record in found[:size]],
            next_page_token=listing.next_token(found, size, lambda record: record.seq),
        )

    async def GetBatch(self, request: pb.GetBatchRequest, context: Context) -> pb.GetBatchResponse:
        check = ArgumentCheck()
        batch_id = check.uuid("batch_id", request.batch_id)
        check.finish()
        async with self._database.connect() as connection:
            record = await queue.find_batch(connection, batch_id, self._account)
            attempts = await storage_attempts.list_all(connection, batch_id)
        if record is None:
            raise no_batch(batch_id)
        return pb.GetBatchResponse(batch=batch_view(record), attempts=[attempt_view(attempt) for attempt in attempts])

    async def ListDeadBatches(self, request: pb.ListDeadBatchesRequest, context: Context) -> pb.ListDeadBatchesResponse:
        check = ArgumentCheck()
        size = check.page_size(request.page_size)
        tenant_id = check.optional_tenant_id(request.tenant_id)
        listing = Listing("dead batches", tenant_id)
        before = listing.after(check, request.page_token, position) or 0
        check.finish()
        async with self._database.connect() as connection:
            found = await queue.list_dead(
                connection, tenant_id=tenant_id, before=before, limit=size + 1, account=self._account
            )
        return pb.ListDeadBatchesResponse(
            batches=[batch_view(record) for record in found[:size]],
            next_page_token=listing.next_token(found, size, lambda record: record.seq),
        )

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
        return pb.ResolveBatchResponse(batch=batch_view(record))

    async def StopSending(self, request: pb.StopSendingRequest, context: Context) -> pb.StopSendingResponse:
        stop, in_flight = await self._sending.stop(_stop_order(request, context))
        return pb.StopSendingResponse(stop=stop_view(stop), in_flight=in_flight)

    async def ResumeSending(self, request: pb.ResumeSendingRequest, context: Context) -> pb.ResumeSendingResponse:
        left = await self._sending.resume(_stop_order(request, context))
        return pb.ResumeSendingResponse(stops=map(stop_view, left))

    async def GetRateLimits(self, request: pb.GetRateLimitsRequest, context: Context) -> pb.GetRateLimitsResponse:
        limits = await self._limits.read()
        shown = {(scope, ""): limit for scope, limit in limits.defaults.items()} | dict(limits.overrides)
        return pb.GetRateLimitsResponse(
            limits=[rate_limit_view(scope, key, limit) for (scope, key), limit in sorted(shown.items())]
        )

    async def SetRateLimit(self, request: pb.SetRateLimitRequest, context: Context) -> pb.SetRateLimitResponse:
        check = ArgumentCheck()
        check.request_id(request.request_id)
        wanted = request.limit
        scope = check.required_enum("limit.scope", LimitScope, wanted.scope)
        if wanted.scope == pb.RATE_LIMIT_SCOPE_GLOBAL and wanted.key:
            check.wrong("limit.key", "must be empty for the global limit")
        check.text("limit.key", wanted.key, maximum=MAX_KEY)
        limit = _limit(check, wanted)
        check.finish()
        limit = await self._limits.change(scope, wanted.key, limit, request.etag)
        return pb.SetRateLimitResponse(limit=rate_limit_view(scope, wanted.key, limit))


def _stop_order(request: pb.StopSendingRequest | pb.ResumeSendingRequest, context: Context) -> StopOrder:
    check = ArgumentCheck()
    request_id = check.request_id(request.request_id)
    scope = check.required_enum("scope", StopScope, request.scope)
    if scope is StopScope.TENANT:
        check.tenant_id(request.key, "key")
    elif scope is StopScope.TRAFFIC_ACCOUNT:
        check.text("key", request.key, minimum=1, maximum=MAX_KEY)
    elif request.key:
        check.wrong("key", "must be empty where everything is meant")
    message_class = check.enum("message_class", MessageClass, request.message_class)
    reason = check.text("reason", request.reason, minimum=1, maximum=MAX_REASON)
    check.finish()
    return StopOrder(request_id, StopKey(scope, request.key, message_class), reason, _operator(context))


def _limit(check: ArgumentCheck, wanted: pb.RateLimit) -> Limit:
    """What is unset is not limited."""
    max_requests = wanted.max_requests if wanted.HasField("max_requests") else None
    max_messages = wanted.max_messages if wanted.HasField("max_messages") else None
    check.number("limit.max_requests", max_requests or 0, minimum=0, maximum=MAX_REQUESTS)
    check.number("limit.max_messages", max_messages or 0, minimum=0, maximum=MAX_MESSAGES)
    window = wanted.window
    if not (0 <= window.seconds <= MAX_WINDOW.total_seconds() and _MILLISECOND <= window.ToTimedelta() <= MAX_WINDOW):
        check.wrong("limit.window", "must be 1 ms to 1 h")
        return Limit()
    if window.ToTimedelta() % _MILLISECOND or window.nanos % 1000:
        check.wrong("limit.window", "must be whole milliseconds")
    return Limit(max_requests, max_messages, window.ToTimedelta())


def _operator(context: Context) -> str:
    """Who asks, for the audit: who the caller says it is, and where the call comes from."""
    named = [str(value) for key, value in context.invocation_metadata() or () if key == OPERATOR_METADATA]
    return f"{' '.join(named)[:100]} {context.peer()[:100]}".strip().replace("\0", "")
