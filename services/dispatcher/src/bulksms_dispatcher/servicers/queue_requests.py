"""What operators ask for, read from the messages of the contract."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from bulksms.dispatcher.v1 import queue_pb2 as pb
from bulksms_dispatcher.domain.messages import MessageClass
from bulksms_dispatcher.domain.rate_limits import Limit
from bulksms_dispatcher.domain.resolution_plans import BatchSelection, Resolution
from bulksms_dispatcher.domain.stops import StopKey, StopScope
from bulksms_dispatcher.peers.reasons import reason_name
from bulksms_dispatcher.use_cases.sending_control import StopOrder
from servicekit.arguments import ArgumentCheck

__all__ = ["MAX_KEY", "MAX_REASON", "operator_of", "read_limit", "read_resolution", "read_selection", "read_stop_order"]

Context = Any
MAX_REASON = 500
MAX_KEY = 64
OPERATOR_METADATA = "x-operator"
_RESOLUTIONS = {pb.RESOLUTION_ACCEPTED: Resolution.ACCEPTED, pb.RESOLUTION_NOT_SENT: Resolution.NOT_SENT}
# The limiter remembers every permit of a window.
MAX_REQUESTS, MAX_MESSAGES, MAX_WINDOW = 10_000, 10_000_000, timedelta(hours=1)
_MILLISECOND = timedelta(milliseconds=1)


def read_stop_order(request: pb.StopSendingRequest | pb.ResumeSendingRequest, context: Context) -> StopOrder:
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
    return StopOrder(request_id, StopKey(scope, request.key, message_class), reason, operator_of(context))


def read_limit(check: ArgumentCheck, wanted: pb.RateLimit) -> Limit:
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


def operator_of(context: Context) -> str:
    """Who asks, for the audit: who the caller says it is, and where the call comes from."""
    named = [str(value) for key, value in context.invocation_metadata() or () if key == OPERATOR_METADATA]
    return f"{' '.join(named)[:100]} {context.peer()[:100]}".strip().replace("\0", "")


def read_resolution(check: ArgumentCheck, resolution: pb.Resolution.ValueType) -> Resolution:
    """What an operator knows of a batch, required."""
    if resolution not in _RESOLUTIONS:
        check.wrong("resolution", "must be ACCEPTED or NOT_SENT")
    return _RESOLUTIONS.get(resolution, Resolution.ACCEPTED)


def read_selection(check: ArgumentCheck, wanted: pb.BatchSelection) -> BatchSelection:
    """Which ambiguous batches are meant; never simply all of them."""
    selection = BatchSelection(
        tenant_id=check.optional_tenant_id(wanted.tenant_id),
        campaign_id=check.optional_uuid("selection.campaign_id", wanted.campaign_id),
        traffic_account_id=check.text("selection.traffic_account_id", wanted.traffic_account_id, maximum=MAX_KEY),
        armed_from=(
            check.instant("selection.armed_from", wanted.armed_from) if wanted.HasField("armed_from") else None
        ),
        armed_until=(
            check.instant("selection.armed_until", wanted.armed_until) if wanted.HasField("armed_until") else None
        ),
        reason=reason_name(wanted.reason),
        http_status=check.number("selection.http_status", wanted.http_status, minimum=0, maximum=999),
    )
    if not selection.is_narrowed:
        check.wrong("selection", "must name a tenant, a campaign or a window from and until a time")
    return selection
