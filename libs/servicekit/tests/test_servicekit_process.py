"""A whole service as its own process: commands, signals, exit codes, last words."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2, metrics_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

pytestmark = pytest.mark.slow

PATIENCE = 20.0

MAIN = """
import asyncio
from datetime import timedelta
from typing import ClassVar

from servicekit.cli import main
from servicekit.database import Database
from servicekit.errors import unavailable
from servicekit.grpc.server import build_server
from servicekit.settings import ServiceSettings
from servicekit.worker import PeriodicWorker


class Settings(ServiceSettings):
    service_name: ClassVar[str] = "example"
    old_names: ClassVar[dict[str, str]] = {"MANNER": "BEHAVIOUR", "GRPC_ADDRESS": "GRPC_LISTEN"}
    behaviour: str = "polite"


class Stubborn:
    async def start(self): pass
    async def stop(self): await asyncio.sleep(60)


class Slow:
    async def start(self): await asyncio.sleep(60)
    async def stop(self): pass


class Broken:
    async def start(self): pass
    async def run(self): raise RuntimeError("the floor gave way")
    async def stop(self): pass


async def build(settings):
    if settings.behaviour == "refuses":
        raise unavailable("PEER_AWAY", "The peer is away: start it.")
    extra = {"stubborn": [Stubborn()], "slow": [Slow()], "broken": [Broken()]}.get(settings.behaviour, [])
    database = [Database.from_settings(settings)] if settings.database_url else []
    return [*database, *extra, build_server(settings, [])]


if __name__ == "__main__":
    raise SystemExit(main("example", Settings, build, migrations=MIGRATIONS))
"""


class Process:
    """The service started, and what it has logged so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self.output = ""

    async def logged(self, event: str) -> dict[str, Any]:
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            while True:
                line = (await self.process.stderr.readline()).decode()
                if not line:
                    pytest.fail(f"ended without logging {event!r}: {self.lines}")
                self.lines.append(json.loads(line))
                if self.lines[-1]["event"] == event:
                    return self.lines[-1]

    async def ended(self) -> int:
        async with asyncio.timeout(PATIENCE):
            out, err = await self.process.communicate()
        self.output = out.decode()
        self.lines += [json.loads(line) for line in err.decode().splitlines()]
        assert self.process.returncode is not None
        return self.process.returncode

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


Start = Callable[..., Any]


@pytest.fixture
def example(tmp_path: Path) -> Start:
    package = tmp_path / "example"
    versions = package / "migrations" / "versions"
    versions.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "migrations" / "env.py").write_text(
        "from servicekit.migrations import run_environment\n\nrun_environment()\n"
    )
    (versions / "0001_first.py").write_text(
        "from alembic import op\n\nrevision = '0001'\ndown_revision = None\n\n\n"
        "def upgrade():\n    op.execute('CREATE TABLE first (n int)')\n"
    )

    @asynccontextmanager
    async def start(
        command: str, *arguments: str, migrations: str | None = None, **environment: str
    ) -> AsyncIterator[Process]:
        (package / "__main__.py").write_text(MAIN.replace("MIGRATIONS", repr(migrations)))
        inherited = {k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "REDIS_URL") and "OTEL" not in k}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "example",
            command,
            *arguments,
            cwd=tmp_path,
            env={**inherited, "GRPC_LISTEN": "127.0.0.1:0", "SHUTDOWN_GRACE_SECONDS": "1", **environment},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            yield Process(process)
        finally:
            if process.returncode is None:
                process.kill()
                await process.communicate()

    return start


async def test_a_service_answers_until_it_is_told_to_stop_and_then_exits_with_zero(example: Start) -> None:
    async with example("serve") as service:
        address = (await service.logged("listening"))["address"]
        await service.logged("started")
        async with grpc.aio.insecure_channel(address) as channel:
            reply = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        assert reply.status == health_pb2.HealthCheckResponse.SERVING
        service.signal(signal.SIGTERM)
        assert await service.ended() == 0
    assert service.lines[-1] == service.lines[-1] | {"event": "stopped", "exit_code": 0}


async def test_a_second_signal_ends_it_at_once(example: Start) -> None:
    async with example("serve", BEHAVIOUR="stubborn") as service:
        await service.logged("started")
        service.signal(signal.SIGINT)
        await service.logged("stopping")
        service.signal(signal.SIGTERM)
        assert await service.ended() == 128 + signal.SIGTERM


async def test_a_start_that_waits_does_not_outlast_the_signal(example: Start) -> None:
    async with example("serve", BEHAVIOUR="slow") as service:
        await service.logged("starting")
        service.signal(signal.SIGTERM)
        assert await service.ended() == 0
    assert "stopped before it had started" in [line["event"] for line in service.lines]


async def test_a_task_that_fails_stops_the_process_with_one_clear_line(example: Start) -> None:
    async with example("serve", BEHAVIOUR="broken") as service:
        assert await service.ended() == 1
    (line,) = [line for line in service.lines if line["level"] == "critical"]
    assert (line["event"], line["error"]) == ("cannot go on", "the floor gave way")
    assert "RuntimeError" in line["exception"]


async def test_an_explained_failure_is_a_line_without_a_traceback(example: Start) -> None:
    async with example("serve", BEHAVIOUR="refuses") as service:
        assert await service.ended() == 1
    (line,) = [line for line in service.lines if line["level"] == "critical"]
    assert line["error"] == "PEER_AWAY: The peer is away: start it."
    assert "exception" not in line


async def test_a_wrong_environment_is_explained(example: Start) -> None:
    async with example("serve", GRPC_LISTEN="nowhere") as service:
        assert await service.ended() == 2
    assert service.lines[-1]["error"] == "GRPC_LISTEN is wrong: must be host:port, for example 0.0.0.0:50051"


async def test_old_names_of_settings_are_warned_of_once_at_the_start(example: Start) -> None:
    async with example("check", MANNER="polite", GRPC_ADDRESS="nowhere") as service:
        assert await service.ended() == 0
    (line,) = [line for line in service.lines if line["level"] == "warning"]
    assert line["event"] == "settings go by their old names"
    assert line["names"] == (
        "MANNER is now BEHAVIOUR: rename it; GRPC_ADDRESS is now GRPC_LISTEN, which is set too and counts"
    )


async def test_migrate_without_a_schema_says_so(example: Start) -> None:
    async with example("migrate") as service:
        assert await service.ended() == 0
    assert service.lines[-1]["event"] == "nothing to migrate: this service has no schema"


async def test_a_service_serves_only_on_a_migrated_database(example: Start, database_url: str) -> None:
    options = {"migrations": "migrations", "DATABASE_URL": database_url}
    async with example("serve", **options) as service:
        assert await service.ended() == 2
        assert "run the migrate command first" in service.lines[-1]["error"]
    async with example("migrate", "--sql", **options) as service:
        assert await service.ended() == 0
        assert "CREATE TABLE first" in service.output
    async with example("migrate", **options) as service:
        assert await service.ended() == 0
    async with example("check", **options) as service:
        assert await service.ended() == 0
    async with example("serve", **options) as service:
        await service.logged("started")
        service.signal(signal.SIGTERM)
        assert await service.ended() == 0


async def test_a_dead_collector_does_not_hold_up_the_end(example: Start) -> None:
    async with example("serve", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1") as service:
        await service.logged("started")
        service.signal(signal.SIGTERM)
        assert await service.ended() == 0


class Collector(trace_service_pb2_grpc.TraceServiceServicer, metrics_service_pb2_grpc.MetricsServiceServicer):
    """Keeps what is exported to it."""

    def __init__(self) -> None:
        self.traces: list[trace_service_pb2.ExportTraceServiceRequest] = []
        self.metrics: list[metrics_service_pb2.ExportMetricsServiceRequest] = []

    async def Export(self, request: Any, _context: object) -> Any:
        if isinstance(request, trace_service_pb2.ExportTraceServiceRequest):
            self.traces.append(request)
            return trace_service_pb2.ExportTraceServiceResponse()
        self.metrics.append(request)
        return metrics_service_pb2.ExportMetricsServiceResponse()


async def test_spans_and_metrics_still_buffered_are_exported_at_the_end(example: Start) -> None:
    collector, server = Collector(), grpc.aio.server()
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    metrics_service_pb2_grpc.add_MetricsServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    async def requests() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    async with example("serve", OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}") as service:
        address = (await service.logged("listening"))["address"]
        async with grpc.aio.insecure_channel(address) as channel:
            stub = reflection_pb2_grpc.ServerReflectionStub(channel)
            assert [reply async for reply in stub.ServerReflectionInfo(requests(), timeout=PATIENCE)]
        service.signal(signal.SIGTERM)
        assert await service.ended() == 0
    await server.stop(None)
    (exported,) = collector.traces[0].resource_spans
    attributes = {item.key: item.value.string_value for item in exported.resource.attributes}
    assert attributes["service.name"] == "example"
    assert [span.name for span in exported.scope_spans[0].spans] == [
        "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    ]
    names = [metric.name for item in collector.metrics[-1].resource_metrics[0].scope_metrics for metric in item.metrics]
    assert "rpc.server.call.duration" in names
