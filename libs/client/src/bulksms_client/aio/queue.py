"""The queue: what operators see of batches and pacing, and what they may do."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime

from bulksms.dispatcher.v1 import queue_pb2 as pb
from bulksms.types.v1 import types_pb2
from bulksms_client.aio.resource import PAGE_SIZE, Resource
from bulksms_client.arguments import new_request_id, timestamp

__all__ = ["Queue"]


class Queue(Resource):
    """Calls of QueueService. They look at every tenant's batches unless one is named."""

    async def stats(self, *, tenant_id: str = "", timeout: float | None = None) -> pb.GetQueueStatsResponse:
        """Depth, age and rate; cheap, made for polling."""
        request = pb.GetQueueStatsRequest(tenant_id=tenant_id)
        return await self._transport.unary(request, pb.GetQueueStatsResponse, timeout=timeout)

    async def batches(
        self,
        *,
        tenant_id: str = "",
        campaign_id: str = "",
        state: pb.BatchState.ValueType = pb.BATCH_STATE_UNSPECIFIED,
        page_size: int = PAGE_SIZE,
        timeout: float | None = None,
    ) -> AsyncIterator[pb.Batch]:
        """Batches, newest first; pages by itself."""
        request = pb.ListBatchesRequest(tenant_id=tenant_id, campaign_id=campaign_id, state=state, page_size=page_size)
        async for page in self._pages(request, pb.ListBatchesResponse, timeout=timeout):
            for batch in page.batches:
                yield batch

    async def batch(self, batch_id: str, *, timeout: float | None = None) -> pb.GetBatchResponse:
        """One batch with its attempts."""
        return await self._transport.unary(pb.GetBatchRequest(batch_id=batch_id), pb.GetBatchResponse, timeout=timeout)

    async def dead(
        self, *, tenant_id: str = "", page_size: int = PAGE_SIZE, timeout: float | None = None
    ) -> AsyncIterator[pb.Batch]:
        """Batches that ran out of attempts, newest first; pages by itself."""
        request = pb.ListDeadBatchesRequest(tenant_id=tenant_id, page_size=page_size)
        async for page in self._pages(request, pb.ListDeadBatchesResponse, timeout=timeout):
            for batch in page.batches:
                yield batch

    async def resolve(
        self,
        batch_id: str,
        resolution: pb.Resolution.ValueType,
        *,
        evidence: str,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> pb.Batch:
        """Record an operator's statement about an ambiguous batch, and where it is known from."""
        request = pb.ResolveBatchRequest(
            request_id=new_request_id(request_id), batch_id=batch_id, resolution=resolution, evidence=evidence
        )
        return (await self._transport.unary(request, pb.ResolveBatchResponse, timeout=timeout)).batch

    async def preview_resolution(
        self, selection: pb.BatchSelection, resolution: pb.Resolution.ValueType, *, timeout: float | None = None
    ) -> pb.PreviewResolutionResponse:
        """What a statement about many ambiguous batches would concern, and the token to carry it out with."""
        request = pb.PreviewResolutionRequest(selection=selection, resolution=resolution)
        return await self._transport.unary(request, pb.PreviewResolutionResponse, timeout=timeout)

    async def resolve_planned(
        self, token: str, *, evidence: str, request_id: str | None = None, timeout: float | None = None
    ) -> pb.ResolveBatchesResponse:
        """Carry out what was previewed; broken off, it goes on when repeated with the same request id."""
        request = pb.ResolveBatchesRequest(request_id=new_request_id(request_id), token=token, evidence=evidence)
        return await self._transport.unary(request, pb.ResolveBatchesResponse, timeout=timeout)

    async def stop(
        self,
        scope: pb.StopScope.ValueType,
        key: str = "",
        *,
        reason: str,
        message_class: types_pb2.MessageClass.ValueType = types_pb2.MESSAGE_CLASS_UNSPECIFIED,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> pb.StopSendingResponse:
        """Stop sending for a tenant, a traffic account or everybody: nothing more is armed once this returns."""
        request = pb.StopSendingRequest(
            request_id=new_request_id(request_id), scope=scope, key=key, message_class=message_class, reason=reason
        )
        return await self._transport.unary(request, pb.StopSendingResponse, timeout=timeout)

    async def resume(
        self,
        scope: pb.StopScope.ValueType,
        key: str = "",
        *,
        reason: str,
        message_class: types_pb2.MessageClass.ValueType = types_pb2.MESSAGE_CLASS_UNSPECIFIED,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> Sequence[pb.Stop]:
        """End one stop; the stops that are left."""
        request = pb.ResumeSendingRequest(
            request_id=new_request_id(request_id), scope=scope, key=key, message_class=message_class, reason=reason
        )
        response = await self._transport.unary(request, pb.ResumeSendingResponse, timeout=timeout)
        return list(response.stops)

    async def republish(
        self, since: datetime, *, reason: str, request_id: str | None = None, timeout: float | None = None
    ) -> pb.RepublishResultsResponse:
        """Report once more to the campaign service what it has acknowledged since then."""
        request = pb.RepublishResultsRequest(
            request_id=new_request_id(request_id), since=timestamp("since", since), reason=reason
        )
        return await self._transport.unary(request, pb.RepublishResultsResponse, timeout=timeout)

    async def rate_limits(self, *, timeout: float | None = None) -> Sequence[pb.RateLimit]:
        """The limits in force: defaults and overrides."""
        response = await self._transport.unary(pb.GetRateLimitsRequest(), pb.GetRateLimitsResponse, timeout=timeout)
        return list(response.limits)

    async def set_rate_limit(
        self, limit: pb.RateLimit, *, etag: str = "", request_id: str | None = None, timeout: float | None = None
    ) -> pb.RateLimit:
        """Change a limit without a restart; with an `etag` only if it is still the one the caller read."""
        request = pb.SetRateLimitRequest(request_id=new_request_id(request_id), limit=limit, etag=etag)
        return (await self._transport.unary(request, pb.SetRateLimitResponse, timeout=timeout)).limit
