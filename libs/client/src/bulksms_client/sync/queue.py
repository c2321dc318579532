"""The queue: what operators see of batches and pacing, and what they may do."""

# Made by make_sync.py from aio/queue.py: change that one.

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bulksms.dispatcher.v1 import queue_pb2 as pb
from bulksms_client.arguments import new_request_id
from bulksms_client.sync.resource import PAGE_SIZE, Resource

__all__ = ["Queue"]


class Queue(Resource):
    """Calls of QueueService. They look at every tenant's batches unless one is named."""

    def stats(self, *, tenant_id: str = "", timeout: float | None = None) -> pb.GetQueueStatsResponse:
        """Depth, age and rate; cheap, made for polling."""
        request = pb.GetQueueStatsRequest(tenant_id=tenant_id)
        return self._transport.unary(request, pb.GetQueueStatsResponse, timeout=timeout)

    def batches(
        self,
        *,
        tenant_id: str = "",
        campaign_id: str = "",
        state: pb.BatchState.ValueType = pb.BATCH_STATE_UNSPECIFIED,
        page_size: int = PAGE_SIZE,
        timeout: float | None = None,
    ) -> Iterator[pb.Batch]:
        """Batches, newest first; pages by itself."""
        request = pb.ListBatchesRequest(tenant_id=tenant_id, campaign_id=campaign_id, state=state, page_size=page_size)
        for page in self._pages(request, pb.ListBatchesResponse, timeout=timeout):
            for batch in page.batches:
                yield batch

    def batch(self, batch_id: str, *, timeout: float | None = None) -> pb.GetBatchResponse:
        """One batch with its attempts."""
        return self._transport.unary(pb.GetBatchRequest(batch_id=batch_id), pb.GetBatchResponse, timeout=timeout)

    def dead(
        self, *, tenant_id: str = "", page_size: int = PAGE_SIZE, timeout: float | None = None
    ) -> Iterator[pb.Batch]:
        """Batches that ran out of attempts, newest first; pages by itself."""
        request = pb.ListDeadBatchesRequest(tenant_id=tenant_id, page_size=page_size)
        for page in self._pages(request, pb.ListDeadBatchesResponse, timeout=timeout):
            for batch in page.batches:
                yield batch

    def requeue(
        self, batch_id: str, *, reason: str, request_id: str | None = None, timeout: float | None = None
    ) -> pb.Batch:
        """Give a dead batch fresh attempts: its recipients were provably not sent."""
        request = pb.RequeueDeadBatchRequest(request_id=new_request_id(request_id), batch_id=batch_id, reason=reason)
        return (self._transport.unary(request, pb.RequeueDeadBatchResponse, timeout=timeout)).batch

    def resolve(
        self,
        batch_id: str,
        resolution: pb.Resolution.ValueType,
        *,
        evidence: str,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> pb.Batch:
        """Record an operator's word on an ambiguous batch, and where it is known from."""
        request = pb.ResolveBatchRequest(
            request_id=new_request_id(request_id), batch_id=batch_id, resolution=resolution, evidence=evidence
        )
        return (self._transport.unary(request, pb.ResolveBatchResponse, timeout=timeout)).batch

    def rate_limits(self, *, timeout: float | None = None) -> Sequence[pb.RateLimit]:
        """The limits in force: defaults and overrides."""
        answer = self._transport.unary(pb.GetRateLimitsRequest(), pb.GetRateLimitsResponse, timeout=timeout)
        return list(answer.limits)

    def set_rate_limit(
        self, limit: pb.RateLimit, *, request_id: str | None = None, timeout: float | None = None
    ) -> pb.RateLimit:
        """Change a limit without a restart."""
        request = pb.SetRateLimitRequest(request_id=new_request_id(request_id), limit=limit)
        return (self._transport.unary(request, pb.SetRateLimitResponse, timeout=timeout)).limit
