"""QueueService: figures, batches, attempts, resolutions, stops, rate limits."""
# ruff: noqa: ARG002 - names and parameters are those of the generated base class

from __future__ import annotations

from typing import Any

from bulksms.dispatcher.v1 import queue_pb2 as pb
from bulksms.dispatcher.v1 import queue_pb2_grpc
from bulksms_dispatcher.domain.protocol import BatchState
from bulksms_dispatcher.domain.rate_limits import LimitScope
from bulksms_dispatcher.pacing.current import CurrentLimits
from bulksms_dispatcher.pacing.gate import PacingGate
from bulksms_dispatcher.servicers.queue_requests import (
    MAX_KEY,
    MAX_REASON,
    operator_of,
    read_limit,
    read_resolution,
    read_selection,
    read_stop_order,
)
from bulksms_dispatcher.servicers.queue_views import (
    attempt_view,
    batch_view,
    duration,
    hold_views,
    preview_view,
    rate_limit_view,
    stop_view,
)
from bulksms_dispatcher.storage import account_holds, queue, stops
from bulksms_dispatcher.storage import attempts as storage_attempts
from bulksms_dispatcher.use_cases.bulk_resolutions import BulkResolution, BulkResolutions
from bulksms_dispatcher.use_cases.republishing import Republishing
from bulksms_dispatcher.use_cases.resolutions import OperatorResolution, Resolutions, no_batch
from bulksms_dispatcher.use_cases.sending_control import SendingControl
from servicekit.arguments import ArgumentCheck
from servicekit.database import Database
from servicekit.paging import Listing, position

__all__ = ["QueueServicer"]

Context = Any


class QueueServicer(queue_pb2_grpc.QueueServiceServicer):
    """The contract of each RPC is its comment in the proto."""

    def __init__(
        self,
        database: Database,
        gate: PacingGate,
        limits: CurrentLimits,
        resolutions: Resolutions,
        bulk_resolutions: BulkResolutions,
        sending: SendingControl,
        republishing: Republishing,
        *,
        traffic_account_id: str,
    ) -> None:
        self._database = database
        self._account = traffic_account_id
        self._gate = gate
        self._limits = limits
        self._resolutions = resolutions
        self._bulk_resolutions = bulk_resolutions
        self._sending = sending
        self._republishing = republishing
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
        resolution = read_resolution(check, request.resolution)
        check.finish()
        record = await self._resolutions.resolve(
            OperatorResolution(request_id, batch_id, resolution, known_from, operator_of(context))
        )
        return pb.ResolveBatchResponse(batch=batch_view(record))

    async def PreviewResolution(
        self, request: pb.PreviewResolutionRequest, context: Context
    ) -> pb.PreviewResolutionResponse:
        check = ArgumentCheck()
        resolution = read_resolution(check, request.resolution)
        selection = check.passed(read_selection(check, request.selection))
        return preview_view(*await self._bulk_resolutions.preview(selection, resolution))

    async def ResolveBatches(self, request: pb.ResolveBatchesRequest, context: Context) -> pb.ResolveBatchesResponse:
        check = ArgumentCheck()
        request_id = check.request_id(request.request_id)
        token = check.uuid("token", request.token)
        known_from = check.text("evidence", request.evidence, minimum=1, maximum=MAX_REASON)
        check.finish()
        counts = await self._bulk_resolutions.resolve(
            BulkResolution(request_id, token, known_from, operator_of(context))
        )
        return pb.ResolveBatchesResponse(resolved=counts.resolved, left=counts.left)

    async def StopSending(self, request: pb.StopSendingRequest, context: Context) -> pb.StopSendingResponse:
        stop, in_flight = await self._sending.stop(read_stop_order(request, context))
        return pb.StopSendingResponse(stop=stop_view(stop), in_flight=in_flight)

    async def ResumeSending(self, request: pb.ResumeSendingRequest, context: Context) -> pb.ResumeSendingResponse:
        left = await self._sending.resume(read_stop_order(request, context))
        return pb.ResumeSendingResponse(stops=map(stop_view, left))

    async def RepublishResults(
        self, request: pb.RepublishResultsRequest, context: Context
    ) -> pb.RepublishResultsResponse:
        check = ArgumentCheck()
        request_id = check.request_id(request.request_id)
        if not request.HasField("since"):
            check.wrong("since", "is required: the moment that the campaign service was set back to")
        since = check.instant("since", request.since)
        reason = check.text("reason", request.reason, minimum=1, maximum=MAX_REASON)
        check.finish()
        results = await self._republishing.republish(request_id, since, reason, operator_of(context))
        return pb.RepublishResultsResponse(results=results or 0, replayed=results is None)

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
        limit = read_limit(check, wanted)
        check.finish()
        limit = await self._limits.change(scope, wanted.key, limit, request.etag)
        return pb.SetRateLimitResponse(limit=rate_limit_view(scope, wanted.key, limit))
