"""The span store's process: takes OTLP/gRPC exports and appends the spans to SQLite.

Usage: python -m devstack.spans HOST:PORT FILE
"""

from __future__ import annotations

import queue
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1 import trace_pb2

from devstack.span_store import AttributeValue, Span, SpanKey, SpanWriter

_QUEUED_EXPORTS = 200
_SPANS_PER_TRANSACTION = 5_000
_TEXT_LIMIT = 1_000
_MESSAGE_BYTES = 16 * 1024 * 1024
_STOP_SECONDS = 5.0


class SpanServer:
    """An OTLP collector with one purpose; a full queue rejects the export, and the exporter retries."""

    def __init__(self, address: str, path: Path) -> None:
        self._queue: queue.Queue[list[Span] | None] = queue.Queue(_QUEUED_EXPORTS)
        self._writer = SpanWriter(path)
        self._thread = threading.Thread(target=self._write, name="span-writer")
        self._server = grpc.server(
            ThreadPoolExecutor(4, thread_name_prefix="export"),
            options=[("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", _MESSAGE_BYTES)],
        )
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(_Traces(self._queue), self._server)  # type: ignore[no-untyped-call]
        metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(_Metrics(), self._server)  # type: ignore[no-untyped-call]
        logs_service_pb2_grpc.add_LogsServiceServicer_to_server(_Logs(), self._server)  # type: ignore[no-untyped-call]
        health_servicer = health.HealthServicer()
        health_servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(health_servicer, self._server)
        self.port = self._server.add_insecure_port(address)

    def start(self) -> None:
        """Begin to take exports."""
        self._thread.start()
        self._server.start()

    def stop(self) -> None:
        """Take no more, write what was taken."""
        self._server.stop(_STOP_SECONDS).wait()
        self._queue.put(None)
        self._thread.join()
        self._writer.close()

    def _write(self) -> None:
        while (spans := self._queue.get()) is not None:
            while len(spans) < _SPANS_PER_TRANSACTION:
                try:
                    more = self._queue.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    self._writer.append(spans)
                    return
                spans += more
            self._writer.append(spans)


class _Traces(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self, accepted: queue.Queue[list[Span] | None]) -> None:
        self._accepted = accepted

    def Export(  # noqa: N802 - the protocol's name
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        try:
            self._accepted.put(list(_spans_of(request)), timeout=2.0)
        except queue.Full:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the span store is behind; try again")
        return trace_service_pb2.ExportTraceServiceResponse()


class _Metrics(metrics_service_pb2_grpc.MetricsServiceServicer):
    """Takes metrics and drops them, so that an exporter pointed here has nothing to complain of."""

    def Export(  # noqa: N802 - the protocol's name
        self, _request: metrics_service_pb2.ExportMetricsServiceRequest, _context: grpc.ServicerContext
    ) -> metrics_service_pb2.ExportMetricsServiceResponse:
        return metrics_service_pb2.ExportMetricsServiceResponse()


class _Logs(logs_service_pb2_grpc.LogsServiceServicer):
    """As for metrics."""

    def Export(  # noqa: N802 - the protocol's name
        self, _request: logs_service_pb2.ExportLogsServiceRequest, _context: grpc.ServicerContext
    ) -> logs_service_pb2.ExportLogsServiceResponse:
        return logs_service_pb2.ExportLogsServiceResponse()


def _spans_of(request: trace_service_pb2.ExportTraceServiceRequest) -> Iterator[Span]:
    for resource_spans in request.resource_spans:
        service = str(_attributes(resource_spans.resource.attributes).get("service.name", "unknown"))
        for scope_spans in resource_spans.scope_spans:
            for span in scope_spans.spans:
                yield Span(
                    key=SpanKey(span.trace_id, span.span_id),
                    parent_id=span.parent_span_id,
                    service=service,
                    name=span.name[:_TEXT_LIMIT],
                    kind=int(span.kind),
                    start_ns=span.start_time_unix_nano,
                    end_ns=span.end_time_unix_nano,
                    failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
                    message=span.status.message[:_TEXT_LIMIT],
                    attributes=_attributes(span.attributes),
                    links=tuple(SpanKey(link.trace_id, link.span_id) for link in span.links),
                )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, AttributeValue]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> AttributeValue:
    kind = value.WhichOneof("value")
    if kind == "string_value":
        return value.string_value[:_TEXT_LIMIT]
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values[:100]]
    if kind in ("bool_value", "int_value", "double_value"):
        return bool(value.bool_value) if kind == "bool_value" else getattr(value, kind)
    return "" if kind is None else f"({kind.removesuffix('_value')})"


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    address, path = sys.argv[1:]
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    server = SpanServer(address, Path(path))
    server.start()
    print(f"span store listening on {address}, writing {path}")  # noqa: T201 - its log
    stop.wait()
    server.stop()


if __name__ == "__main__":
    main()
