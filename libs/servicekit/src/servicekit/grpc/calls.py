"""What one RPC leaves behind, at either end: a span, a duration, by the OpenTelemetry RPC conventions."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Literal

import grpc
from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.util.types import AttributeValue

__all__ = ["CallRecorder", "RecordedCall", "split_method"]

_SECONDS_BUCKETS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300]

# A server answered these through its own fault; the others are the caller's, and no error of the server's span.
_SERVER_FAULTS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)


@lru_cache(maxsize=1024)  # a service has some dozens; what strangers make up is bounded
def split_method(path: str) -> tuple[str, str]:
    """`/package.Service/Method` → (`package.Service`, `Method`)."""
    service, _, method = path.removeprefix("/").rpartition("/")
    return service, method


class RecordedCall:
    """One call under way; `finish` must be called once, whatever happened."""

    def __init__(self, recorder: CallRecorder, path: str, span: Span) -> None:
        self.service, self.method = split_method(path)
        self.span = span
        self.started = time.perf_counter()
        self._recorder = recorder
        self._finished = False

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self.started

    def finish(self, code: grpc.StatusCode, error_type: str = "") -> None:
        """Record how it ended and end the span; a second time does nothing."""
        if self._finished:
            return
        self._finished = True
        number: int = code.value[0]
        self.span.set_attribute("rpc.grpc.status_code", number)
        if code is not grpc.StatusCode.OK:
            self.span.set_attribute("error.type", error_type or code.name)
            if self._recorder.is_fault(code):
                self.span.set_status(Status(StatusCode.ERROR, error_type or code.name))
        self.span.end()
        self._recorder.durations.record(
            self.seconds,
            {
                "rpc.system": "grpc",
                "rpc.service": self.service,
                "rpc.method": self.method,
                "rpc.grpc.status_code": number,
            },
        )


class CallRecorder:
    """Starts `RecordedCall`s for one end; the global providers are used where none is given."""

    def __init__(
        self,
        end: Literal["server", "client"],
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        self._end = end
        self._tracer = trace.get_tracer("bulksms.servicekit.grpc", tracer_provider=tracer_provider)
        meter = metrics.get_meter("bulksms.servicekit.grpc", meter_provider=meter_provider)
        self.durations = meter.create_histogram(
            f"rpc.{end}.call.duration",
            unit="s",
            description=f"How long calls took, seen by the {end}",
            explicit_bucket_boundaries_advisory=_SECONDS_BUCKETS,
        )

    def start(self, path: str, context: Context | None = None) -> RecordedCall:
        """Begin a call; its span is not made current."""
        service, method = split_method(path)
        attributes: dict[str, AttributeValue] = {
            "rpc.system": "grpc",
            "rpc.service": service,
            "rpc.method": method,
        }
        kind = SpanKind.SERVER if self._end == "server" else SpanKind.CLIENT
        span = self._tracer.start_span(f"{service}/{method}", context=context, kind=kind, attributes=attributes)
        return RecordedCall(self, path, span)

    def is_fault(self, code: grpc.StatusCode) -> bool:
        """Is this code an error of this end's span? For a client every failure is."""
        return self._end == "client" or code in _SERVER_FAULTS
