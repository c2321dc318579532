"""The cost of a batch split by stage: a dispatcher in this process with one sender, its spans timed by CPU."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Sequence

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from pydantic import SecretStr

from benchmarks.dispatcher.processes import Bench
from benchmarks.dispatcher.throughput import header_for, submit, until
from benchmarks.report import Figure, percentile_ms
from bulksms.dispatcher.v1.dispatch_pb2_grpc import DispatchServiceStub
from bulksms_dispatcher.app import build
from bulksms_dispatcher.settings import Settings
from servicekit.grpc.client import open_channel
from servicekit.grpc.server import GrpcServer
from servicekit.lifecycle import running
from servicekit.settings import Endpoint

STAGES = ("claim", "pace", "render", "arm", "POST", "record", "report batch")


class StageMeter(SpanProcessor):
    """Wall time of each stage's spans, and the CPU time of this thread from their start to their end.

    POST contains arm; what each of the two costs is worked out at the end. A claim's span is made when the claim is
    over, so that its CPU time is not known.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.cpu_seconds: dict[str, float] = defaultdict(float)
        self._started: dict[int, float] = {}

    def on_start(self, span: Span, parent_context: otel_context.Context | None = None) -> None:  # noqa: ARG002
        if span.name in STAGES and span.context is not None:
            self._started[span.context.span_id] = time.thread_time()

    def on_end(self, span: ReadableSpan) -> None:
        if span.name not in STAGES or span.context is None or span.start_time is None or span.end_time is None:
            return
        self.cpu_seconds[span.name] += time.thread_time() - self._started.pop(span.context.span_id)
        self.seconds[span.name].append((span.end_time - span.start_time) / 1e9)


async def stage_by_stage(bench: Bench, batches: int, batch_size: int) -> list[Figure]:
    """Batches sent one after the other."""
    url = await bench.new_database("stages")
    settings = _settings(bench, url, batch_size)
    meter = StageMeter()
    provider = TracerProvider()
    provider.add_span_processor(meter)
    trace.set_tracer_provider(provider)
    components = await build(settings)
    async with running(components):
        server = next(component for component in components if isinstance(component, GrpcServer))
        channel = open_channel(server.address)
        try:
            await submit(DispatchServiceStub(channel), header_for(), batches * batch_size)
            await until(url, "SELECT NOT EXISTS (SELECT FROM batches WHERE state <> 4)")
            await until(url, "SELECT NOT EXISTS (SELECT FROM outbox)")
        finally:
            await channel.close()
    await asyncio.sleep(0)
    return _figures(meter, batches * batch_size)


def _settings(bench: Bench, url: str, batch_size: int) -> Settings:
    environment = bench.environment(url, batch_size)
    names = {name.lower(): value for name, value in environment.items() if not name.startswith("OTEL_")}
    secrets = {name: SecretStr(names[name]) for name in ("database_url", "redis_url", "mitto_api_key")}
    return Settings.model_validate(
        {**names, **secrets, "grpc_listen": Endpoint("127.0.0.1", 0), "worker_concurrency": 1}
    )


def _figures(meter: StageMeter, messages: int) -> list[Figure]:
    # The connection is opened and the batch armed inside the POST's span.
    cpu = {**meter.cpu_seconds, "POST": meter.cpu_seconds["POST"] - meter.cpu_seconds["arm"]}
    return [_figure(stage, meter.seconds[stage], cpu.get(stage, 0.0), messages) for stage in STAGES]


def _figure(stage: str, seconds: Sequence[float], cpu_seconds: float, messages: int) -> Figure:
    spent = {} if stage in ("claim", "pace") else {"dispatcher": round(cpu_seconds / messages * 1e6, 2)}
    p50, p99 = percentile_ms(seconds, 0.50), percentile_ms(seconds, 0.99)
    return Figure(f"stage {stage}, a batch at a time", messages, max(sum(seconds), 1e-9), p50, p99, cpu_us=spent)
