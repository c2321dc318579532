"""Traces and metrics by OTLP under the standard variables, and trace context as text for rows and queues."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from servicekit.settings import ServiceSettings
from servicekit.waiting import is_set_within

__all__ = ["Telemetry", "context_from_traceparent", "current_traceparent", "link_from_traceparent", "setup"]

_FLUSH_BOUND = timedelta(seconds=5)
_propagator = TraceContextTextMapPropagator()


@dataclass(frozen=True, slots=True)
class Telemetry:
    """The providers of this process; `stop` sends what is still buffered."""

    tracer_provider: TracerProvider
    meter_provider: MeterProvider

    async def stop(self, bound: timedelta = _FLUSH_BOUND) -> bool:
        """Flush and close; False when the collector did not take it all within `bound`."""
        flushed = await asyncio.gather(
            _in_daemon_thread(self.tracer_provider.shutdown, bound),
            _in_daemon_thread(self.meter_provider.shutdown, bound),
        )
        return all(flushed)


def setup(settings: ServiceSettings) -> Telemetry:
    """Install this process's tracer and meter provider; call once, first thing."""
    resource = Resource.create(
        {
            "service.name": settings.name,
            "service.version": settings.service_version,
            "service.instance.id": f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}",
        }
    )
    telemetry = Telemetry(_tracer_provider(settings, resource), _meter_provider(settings, resource))
    trace.set_tracer_provider(telemetry.tracer_provider)
    metrics.set_meter_provider(telemetry.meter_provider)
    return telemetry


def current_traceparent() -> str:
    """The W3C `traceparent` of the current span, empty outside one: store it where work is handed on."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier.get("traceparent", "")


def context_from_traceparent(traceparent: str) -> Context:
    """A context to start child spans under; empty when the text is empty or malformed."""
    return _propagator.extract({"traceparent": traceparent}, context=Context())


def link_from_traceparent(
    traceparent: str, attributes: Mapping[str, AttributeValue] | None = None
) -> trace.Link | None:
    """A link to the span the text names; None when it is empty or malformed."""
    span_context = trace.get_current_span(context_from_traceparent(traceparent)).get_span_context()
    return trace.Link(span_context, attributes) if span_context.is_valid else None


def _tracer_provider(settings: ServiceSettings, resource: Resource) -> TracerProvider:
    endpoint = _endpoint(settings, "TRACES")
    if settings.otel_traces_exporter == "none" or not endpoint:
        # Ids without recording: log lines and stored traceparents still tie one campaign's work together.
        return TracerProvider(sampler=ALWAYS_OFF, resource=resource, shutdown_on_exit=False)
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    return provider


def _meter_provider(settings: ServiceSettings, resource: Resource) -> MeterProvider:
    endpoint = _endpoint(settings, "METRICS")
    if settings.otel_metrics_exporter == "none" or not endpoint:
        return MeterProvider(resource=resource, shutdown_on_exit=False)
    reader = PeriodicExportingMetricReader(OTLPMetricExporter(endpoint=endpoint))
    return MeterProvider([reader], resource=resource, shutdown_on_exit=False)


def _endpoint(settings: ServiceSettings, signal: str) -> str:
    # The standard's own order: the signal's variable wins over the common one.
    return os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT") or settings.otel_exporter_otlp_endpoint


async def _in_daemon_thread(blocking: Callable[[], object], bound: timedelta) -> bool:
    # A pool's thread would be joined at exit, so a dead collector would hold up the end of the process.
    loop = asyncio.get_running_loop()
    done = asyncio.Event()

    def finish() -> None:
        try:
            blocking()
        finally:
            if not loop.is_closed():
                loop.call_soon_threadsafe(done.set)

    threading.Thread(target=finish, name="telemetry-flush", daemon=True).start()
    return await is_set_within(done, bound.total_seconds())
