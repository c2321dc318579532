from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span

pytestmark = pytest.mark.slow

PATH = "/v1/mitto/delivery-reports"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """A real OTLP receiver that keeps the spans."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.changed = asyncio.Event()
        self.port = 0

    async def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        self.changed.set()
        return trace_service_pb2.ExportTraceServiceResponse()

    def named(self, prefix: str) -> list[Span]:
        return [span for span in self.spans if span.name.startswith(prefix)]

    async def until(self, condition: Any) -> None:
        async with asyncio.timeout(60):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


@pytest.fixture
async def collector() -> AsyncIterator[Collector]:
    collector = Collector()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    collector.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield collector
    await server.stop(0)


def attributes(span: Span) -> dict[str, Any]:
    values = {item.key: item.value for item in span.attributes}
    return {key: value.string_value or value.int_value for key, value in values.items()}


async def test_a_request_the_call_it_leads_to_and_nothing_private_are_in_the_trace(
    start_gateway: Any, peers: Any, collector: Collector
) -> None:
    gateway = start_gateway(
        peers.port,
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{collector.port}",
        OTEL_BSP_SCHEDULE_DELAY="50",
        OTEL_METRICS_EXPORTER="none",
    )
    async with httpx.AsyncClient(base_url=gateway.url) as client:
        for message_id in ("A", "B"):
            response = await client.post(
                f"{PATH}/{gateway.secret}",
                json={"messageId": message_id, "status": "Sent", "description": "to +306912345678", "text": "γεια"},
                # Somebody else's idea of where our spans belong is not followed.
                headers={"traceparent": "00-11111111111111111111111111111111-2222222222222222-01"},
            )
            assert response.status_code == 200
        assert (await client.post(f"{PATH}/wrong-secret-0123456789", json={})).status_code == 403
    await peers.until(lambda: set(peers.ids) == {"A", "B"})
    forwards = "forward delivery reports to campaign"
    await collector.until(lambda: sum(len(span.links) for span in collector.named(forwards)) == 2)
    requests = collector.named("POST ")
    assert len(requests) == 2  # none for the forged one
    for span in requests:
        assert span.kind == Span.SPAN_KIND_SERVER
        assert span.parent_span_id == b""
        assert span.trace_id != bytes.fromhex("11111111111111111111111111111111")
        assert attributes(span) == {
            "http.request.method": "POST",
            "http.route": PATH,
            "http.request.body.size": attributes(span)["http.request.body.size"],
            "http.response.status_code": 200,
            "dlr.accepted": 1,
            "dlr.rejected": 0,
        }
    linked = {link.span_id for span in collector.named(forwards) for link in span.links}
    assert linked == {span.span_id for span in requests}
    # The context that campaign got is that of the call's own span, a child of the forwarding one.
    calls = {span.span_id: span for span in collector.spans if span.kind == Span.SPAN_KIND_CLIENT}
    parents = {span.span_id for span in collector.named(forwards)}
    assert peers.traceparents
    for traceparent in peers.traceparents:
        _, trace_id, span_id, _ = traceparent.split("-")
        call = calls[bytes.fromhex(span_id)]
        assert call.trace_id == bytes.fromhex(trace_id)
        assert call.parent_span_id in parents
    everything = " ".join(str(span) for span in collector.spans)
    assert gateway.secret not in everything
    assert "6912345678" not in everything
