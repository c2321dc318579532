"""The spans of one attempt: a consumer span in the campaign's trace, and its steps below it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from bulksms_dispatcher.domain.batches import LeasedBatch
from bulksms_dispatcher.domain.provider_outcomes import Exchange, Fault, Verdict
from bulksms_dispatcher.domain.requests import RenderedRequest
from bulksms_dispatcher.providers.mitto import MittoClient
from servicekit.telemetry import context_from_traceparent, link_from_traceparent

__all__ = ["batch_span", "note_exchange", "note_verdict", "past_step", "post_span", "step"]

_tracer = trace.get_tracer("bulksms.dispatcher.sender")


@contextmanager
def batch_span(batch: LeasedBatch, started_ns: int) -> Iterator[trace.Span]:
    """One consumer span per attempt, child of the enqueue, so that enqueue to completion is one trace."""
    link = link_from_traceparent(batch.traceparent)
    with _tracer.start_as_current_span(
        "send batch",
        context=context_from_traceparent(batch.traceparent),
        kind=SpanKind.CONSUMER,
        links=[link] if link else [],
        start_time=started_ns,
        attributes={
            "bulksms.tenant_id": batch.tenant_id,
            "bulksms.campaign_id": "" if batch.is_single_message else str(batch.campaign_id),
            "bulksms.batch_id": str(batch.batch_id),
            "bulksms.batch_number": batch.number,
            "bulksms.epoch": batch.epoch,
            "bulksms.attempt": batch.attempts + 1,
            "bulksms.recipients": batch.recipients,
            "bulksms.waited_seconds": batch.waited_seconds,
        },
    ) as span:
        yield span


def note_verdict(span: trace.Span, verdict: Verdict) -> None:
    """What the attempt came to."""
    span.set_attributes(
        {
            "bulksms.outcome": verdict.kind.value,
            "bulksms.reason": verdict.reason,
            "bulksms.bulk_id": verdict.bulk_id,
            "bulksms.accepted": len(verdict.message_ids),
        }
    )


def step(name: str) -> AbstractContextManager[trace.Span]:
    """A step below the current span."""
    return _tracer.start_as_current_span(name)


def past_step(name: str, started_ns: int, ended_ns: int) -> None:
    """A step that is over."""
    _tracer.start_span(name, start_time=started_ns).end(ended_ns)


def post_span(provider: MittoClient, path: str, request: RenderedRequest) -> AbstractContextManager[trace.Span]:
    """The provider call, its connection and the arm included."""
    attributes: dict[str, str | int] = {
        "http.request.method": "POST",
        "server.address": provider.server_address,
        "server.port": provider.server_port,
        "url.path": path,
        "http.request.body.size": len(request.body),
        "bulksms.messages": request.messages,
    }
    return _tracer.start_as_current_span("POST", kind=SpanKind.CLIENT, attributes=attributes)


def note_exchange(span: trace.Span, exchange: Exchange) -> None:
    """What was seen of the provider call."""
    if exchange.status:
        span.set_attribute("http.response.status_code", exchange.status)
    if exchange.fault is not Fault.NONE or exchange.status >= 400:
        span.set_attribute("error.type", exchange.fault.value or str(exchange.status))
        span.set_status(Status(StatusCode.ERROR, exchange.fault.value))
