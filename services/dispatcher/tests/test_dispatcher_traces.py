"""One trace from enqueue to the outcome: what its spans say, and what they never say."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, format_span_id, format_trace_id

from devstack.eventually import eventually

from .dispatcher_support import TENANT, Dispatcher, Peers, header, phones, submit

ENQUEUE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    for module in ("send_spans", "result_publisher", "capture_publisher"):
        monkeypatch.setattr(f"bulksms_dispatcher.workers.{module}._tracer", tracer)
    yield exporter
    provider.shutdown()


def names_of(spans: InMemorySpanExporter) -> set[str]:
    return {span.name for span in spans.get_finished_spans()}


def id_of(span: ReadableSpan) -> str:
    return format_span_id(span.context.span_id)


async def test_a_batch_is_one_consumer_span_in_the_enqueue_s_trace_with_its_steps_below(
    spans: InMemorySpanExporter, dispatcher: Dispatcher, peers: Peers
) -> None:
    head = header(traceparent=ENQUEUE, text="A secret text for {{n}}", variable_names=["n"])
    await submit(dispatcher, phones(5), head, [f"Name{n}" for n in range(5)])
    await eventually(lambda: {"report batch", "capture credits", "send batch"} <= names_of(spans))

    finished = spans.get_finished_spans()
    assert {format_trace_id(span.context.trace_id) for span in finished} == {ENQUEUE[3:35]}
    (batch,) = [span for span in finished if span.name == "send batch"]
    assert batch.kind is SpanKind.CONSUMER
    assert batch.parent is not None
    assert format_span_id(batch.parent.span_id) == ENQUEUE[36:52]
    assert [format_span_id(link.context.span_id) for link in batch.links] == [ENQUEUE[36:52]]
    assert batch.attributes is not None
    assert batch.attributes["bulksms.tenant_id"] == TENANT
    assert batch.attributes["bulksms.campaign_id"] == head.campaign_id
    assert batch.attributes["bulksms.outcome"] == "ACCEPTED"
    assert batch.attributes["bulksms.bulk_id"]
    assert batch.attributes["bulksms.accepted"] == 5

    below = {s.name for s in finished if s.parent is not None and format_span_id(s.parent.span_id) == id_of(batch)}
    assert below >= {"claim", "pace", "render", "POST", "record", "report batch", "capture credits"}
    (post,) = [span for span in finished if span.name == "POST"]
    assert post.kind is SpanKind.CLIENT
    assert post.attributes is not None
    assert post.attributes["http.response.status_code"] == 200
    (arm,) = [span for span in finished if span.name == "arm"]
    assert arm.parent is not None
    assert format_span_id(arm.parent.span_id) == id_of(post)
    assert peers.campaign.results[0].traceparent.split("-")[2] == id_of(batch)


async def test_no_span_holds_a_number_or_a_text(
    spans: InMemorySpanExporter, dispatcher: Dispatcher, peers: Peers
) -> None:
    await submit(dispatcher, phones(5), header(text="A secret text"))
    await eventually(lambda: len(peers.campaign.recipients) == 5)
    everything = " ".join(span.to_json() for span in spans.get_finished_spans())
    assert "30690000000" not in everything
    assert "secret" not in everything


def test_without_a_provider_spans_cost_nothing() -> None:
    assert not trace.get_current_span().is_recording()
