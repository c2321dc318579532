"""A gateway as its own process, and the services it talks to as a small real gRPC server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest

from bulksms.campaign.v1 import results_pb2, results_pb2_grpc
from bulksms.dispatcher.v1 import messages_pb2, messages_pb2_grpc
from devstack.eventually import eventually_blocking

SECRET = "first-secret-0123456789"
OLD_SECRET = "second-secret-0123456789"
START_SECONDS = 60.0


@dataclass
class GatewayProcess:
    """One running gateway; `log` are its lines so far."""

    process: subprocess.Popen[bytes]
    log_path: Path
    spool_path: Path
    port: int = 0
    grpc_port: int = 0
    secret: str = SECRET

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log_text.splitlines() if line.startswith("{")]

    @property
    def log_text(self) -> str:
        return self.log_path.read_text()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=10)

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

    def await_ports(self) -> None:
        eventually_blocking(self._is_listening, START_SECONDS, f"the gateway to listen; its log: {self.log_path}")

    def _is_listening(self) -> bool:
        assert self.process.poll() is None, f"the gateway did not start:\n{self.log_text}"
        for line in self.lines:
            if line["event"] == "http listening":
                self.port = line["port"]
            elif line["event"] == "listening":
                self.grpc_port = int(line["address"].rpartition(":")[2])
        return bool(self.port and self.grpc_port)


class Peers:
    """campaign and dispatcher: scripted, and remembering what they were told."""

    def __init__(self) -> None:
        self.reports: list[results_pb2.DeliveryReport] = []
        self.evidence: list[messages_pb2.EvidenceReport] = []
        self.batches: list[int] = []
        self.unknown: Callable[[str], bool] = lambda _: False
        self.evidence_unknown: Callable[[str], bool] = lambda _: True
        self.fails: Callable[[results_pb2.RecordDeliveryReportsRequest], grpc.StatusCode | None] = lambda _: None
        self.evidence_fails: grpc.StatusCode | None = None
        self.delay_seconds = 0.0
        self.traceparents: list[str] = []
        self.changed = asyncio.Event()
        self.port = 0
        self._server: grpc.aio.Server | None = None

    @property
    def ids(self) -> list[str]:
        return [report.provider_message_id for report in self.reports]

    @property
    def evidence_ids(self) -> list[str]:
        return [report.provider_message_id for report in self.evidence]

    async def start(self) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        results_pb2_grpc.add_ResultServiceServicer_to_server(_Results(self), self._server)
        messages_pb2_grpc.add_MessageServiceServicer_to_server(_Messages(self), self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    async def until(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                self.changed.clear()
                await self.changed.wait()


class _Results(results_pb2_grpc.ResultServiceServicer):
    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    async def RecordDeliveryReports(self, request: Any, context: Any) -> Any:
        peers = self._peers
        peers.traceparents += [value for key, value in context.invocation_metadata() if key == "traceparent"]
        peers.changed.set()
        if peers.delay_seconds:
            await asyncio.sleep(peers.delay_seconds)
        code = peers.fails(request)
        if code is not None:
            peers.changed.set()
            await context.abort(code, "as scripted")
        peers.batches.append(len(request.reports))
        peers.reports.extend(request.reports)
        peers.changed.set()
        unknown = [index for index, report in enumerate(request.reports) if peers.unknown(report.provider_message_id)]
        return results_pb2.RecordDeliveryReportsResponse(unknown_indexes=unknown)


class _Messages(messages_pb2_grpc.MessageServiceServicer):
    def __init__(self, peers: Peers) -> None:
        self._peers = peers

    async def RecordDeliveryEvidence(self, request: Any, context: Any) -> Any:
        peers = self._peers
        peers.evidence.extend(request.reports)
        peers.changed.set()
        if peers.evidence_fails is not None:
            await context.abort(peers.evidence_fails, "as scripted")
        unknown = [i for i, report in enumerate(request.reports) if peers.evidence_unknown(report.provider_message_id)]
        return messages_pb2.RecordDeliveryEvidenceResponse(unknown_indexes=unknown)


@pytest.fixture
async def peers() -> AsyncIterator[Peers]:
    peers = Peers()
    await peers.start()
    yield peers
    await peers.stop()


@dataclass
class GatewayStarter:
    folder: Path
    running: list[GatewayProcess] = field(default_factory=list)

    def __call__(self, peer_port: int = 1, **environment: str) -> GatewayProcess:
        spool_path = Path(environment.pop("SPOOL_PATH", str(self.folder / "spool" / "spool.sqlite3")))
        log_path = self.folder / f"gateway-{len(self.running)}.log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "bulksms_dlr_gateway", "serve"],
                env=self.environment(peer_port, SPOOL_PATH=str(spool_path), **environment),
                stdout=log,
                stderr=log,
            )
        gateway = GatewayProcess(process, log_path, spool_path)
        self.running.append(gateway)
        gateway.await_ports()
        return gateway

    @staticmethod
    def environment(peer_port: int = 1, **environment: str) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HTTP_LISTEN": "127.0.0.1:0",
            "GRPC_LISTEN": "127.0.0.1:0",
            "CAMPAIGN_ADDRESS": f"127.0.0.1:{peer_port}",
            "DISPATCHER_ADDRESS": f"127.0.0.1:{peer_port}",
            "DLR_SECRETS": f"{SECRET},{OLD_SECRET}",
            "FORWARD_LINGER_SECONDS": "0.01",
            "RETRY_FIRST_SECONDS": "0.05",
            **environment,
        }


@contextmanager
def _starter(folder: Path) -> Iterator[GatewayStarter]:
    starter = GatewayStarter(folder)
    try:
        yield starter
    finally:
        for gateway in starter.running:
            if gateway.process.poll() is None:
                gateway.kill()


@pytest.fixture
def start_gateway(tmp_path: Path) -> Iterator[GatewayStarter]:
    with _starter(tmp_path) as starter:
        yield starter
