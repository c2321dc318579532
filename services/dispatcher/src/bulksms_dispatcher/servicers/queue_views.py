"""Batches, attempts, stops and limits as messages of the contract."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from bulksms.dispatcher.v1 import queue_pb2 as pb
from bulksms.types.v1 import types_pb2
from bulksms_dispatcher.domain.account_holds import AccountState, Hold
from bulksms_dispatcher.domain.batches import NO_CAMPAIGN, Attempt, BatchRecord
from bulksms_dispatcher.domain.rate_limits import Limit, LimitScope
from bulksms_dispatcher.domain.resolution_plans import PlanCounts
from bulksms_dispatcher.domain.stops import Stop
from bulksms_dispatcher.peers.reasons import reason_number

__all__ = ["attempt_view", "batch_view", "duration", "hold_views", "preview_view", "rate_limit_view", "stop_view"]


def batch_view(record: BatchRecord) -> pb.Batch:
    """A batch as operators see it."""
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
        reason=reason_number(record.reason),
    )
    message.not_before.FromDatetime(record.not_before)
    message.created_at.FromDatetime(record.created_at)
    message.updated_at.FromDatetime(record.updated_at)
    return message


def attempt_view(attempt: Attempt) -> pb.Attempt:
    """An attempt; what it came to is unspecified while it is under way."""
    message = pb.Attempt(
        number=attempt.number,
        epoch=attempt.epoch,
        worker=attempt.worker,
        outcome=pb.AttemptOutcome.Value(f"ATTEMPT_OUTCOME_{attempt.outcome or 'UNSPECIFIED'}"),
        reason=reason_number(attempt.reason),
        http_status=attempt.http_status or None,
    )
    for field, value in ((message.armed_at, attempt.armed_at), (message.ended_at, attempt.ended_at)):
        if value is not None:
            stamp: Timestamp = field
            stamp.FromDatetime(value)
    return message


def hold_views(account: str, state: AccountState, tenant_id: str) -> Iterator[pb.AccountHold]:
    """What holds the account and its lanes; of the lanes, those of the tenant, if one is named."""
    if state.account is not None:
        yield _hold_view(account, state.account)
    for lane, hold in sorted(state.lanes.items()):
        if tenant_id in ("", lane.tenant_id):
            message = _hold_view(account, hold)
            message.tenant_id = lane.tenant_id
            message.campaign_id = "" if lane.campaign_id == NO_CAMPAIGN else str(lane.campaign_id)
            yield message


def _hold_view(account: str, hold: Hold) -> pb.AccountHold:
    message = pb.AccountHold(
        traffic_account_id=account,
        kind=pb.AccountHoldKind.ValueType(hold.kind),
        reason=reason_number(hold.reason),
        failed_probes=hold.failures,
    )
    message.since.FromDatetime(hold.since)
    message.next_probe_at.FromDatetime(hold.probe_at)
    return message


def rate_limit_view(scope: LimitScope, key: str, limit: Limit) -> pb.RateLimit:
    """A limit; what it does not limit is unset."""
    return pb.RateLimit(
        scope=pb.RateLimitScope.ValueType(scope),
        key=key,
        max_requests=limit.max_requests,
        max_messages=limit.max_messages,
        window=duration(limit.window.total_seconds()),
        etag=limit.etag,
    )


def preview_view(counts: PlanCounts, token: UUID) -> pb.PreviewResolutionResponse:
    """A plan as counted."""
    return pb.PreviewResolutionResponse(
        batches=counts.batches,
        recipients=counts.recipients,
        excluded=[
            pb.ExcludedBatches(
                exclusion=pb.ResolutionExclusion.Value(f"RESOLUTION_EXCLUSION_{count.exclusion.name}"),
                batches=count.batches,
            )
            for count in counts.excluded
        ],
        has_more=counts.has_more,
        token=str(token),
    )


def stop_view(stop: Stop) -> pb.Stop:
    """A stop in force."""
    message = pb.Stop(
        scope=pb.StopScope.ValueType(stop.key.scope),
        key=stop.key.key,
        message_class=types_pb2.MessageClass.ValueType(stop.key.message_class or 0),
        reason=stop.reason,
        stopped_by=stop.operator,
    )
    message.stopped_at.FromDatetime(stop.stopped_at)
    return message


def duration(seconds: float | None) -> Duration | None:
    """None stays None."""
    if seconds is None:
        return None
    converted = Duration()
    converted.FromTimedelta(timedelta(seconds=seconds))
    return converted
