"""How fast the simulator is: printed, so that a benchmark knows it is not what it measures."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from devstack.mitto.delivery import Delivery
from devstack.mitto.process import SimulatorProcess
from devstack.mitto.report_posts import ReportSettings
from devstack.mitto.wire import BULK_PATH

pytestmark = pytest.mark.slow

Bulk = Callable[[int], dict[str, Any]]
CONNECTIONS = 4
REQUESTS = 10


async def test_it_accepts_and_reports_fast(tmp_path: Path, bulk: Bulk, capsys: pytest.CaptureFixture[str]) -> None:
    body = json.dumps(bulk(5000)).encode()
    request = f"POST {BULK_PATH} HTTP/1.1\r\nHost: mitto\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    total = 5000 * CONNECTIONS * REQUESTS
    sink = await _start_sink()
    with SimulatorProcess(tmp_path) as simulator:
        process = psutil.Process(simulator.pid)
        host, _, port = simulator.address.rpartition(":")
        began, cpu = time.monotonic(), _cpu_seconds(process)
        await asyncio.gather(*(_send(host, int(port), request) for _ in range(CONNECTIONS)))
        took, used = time.monotonic() - began, _cpu_seconds(process) - cpu
        accepted = f"accepted {total / took:,.0f} messages/s, {used / total * 1e6:.1f} µs of CPU each"

        url = f"http://127.0.0.1:{sink.sockets[0].getsockname()[1]}/"
        control = simulator.control
        await asyncio.to_thread(control.set_behaviour, delivery=Delivery((), 0.0, 0.0), reports=ReportSettings(url=url))
        began, cpu = time.monotonic(), _cpu_seconds(process)
        await _send(host, int(port), request, requests=2)
        assert await asyncio.to_thread(control.wait_reports, 60)
        took, used = time.monotonic() - began, _cpu_seconds(process) - cpu
        statistics = await asyncio.to_thread(control.stats)
        reported = f"reported {20_000 / took:,.0f} reports/s, {used / 20_000 * 1e6:.1f} µs of CPU each"
    sink.close()
    with capsys.disabled():
        print(f"\nsimulator: {accepted}; {reported}")  # noqa: T201
    assert statistics.accepted_messages == total + 10_000
    assert statistics.reports.acknowledged == 20_000


class _Sink(asyncio.Protocol):
    """Acknowledges POSTs of one JSON object each."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if self.buffer.endswith(b"}"):
            self.buffer = b""
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


async def _start_sink() -> asyncio.Server:
    return await asyncio.get_running_loop().create_server(_Sink, "127.0.0.1", 0)


async def _send(host: str, port: int, request: bytes, requests: int = REQUESTS) -> None:
    reader, writer = await asyncio.open_connection(host, port, limit=2**22)
    for _ in range(requests):
        writer.write(request)
        await writer.drain()
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
    writer.close()
    await writer.wait_closed()


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
