"""`python -m benchmarks.gateway`: reports one by one and in arrays, from the simulator to the campaign service."""

from __future__ import annotations

import argparse
import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import msgspec

from benchmarks.processes import peers
from benchmarks.report import Figure, Meter, machine, publish
from devstack.eventually import eventually_blocking
from devstack.mitto.process import SimulatorProcess
from devstack.mitto.report_posts import ReportSettings
from devstack.ports import choose_port, release_port
from devstack.services import DLR_SECRET_HEADER, WEBHOOK_PATH
from devstack.serving import serving
from devstack.temporary import temporary_folder

_TITLE = "Delivery reports: received, on disk (synchronous=FULL), acknowledged, forwarded"
_SECRET = "benchmark-secret-0123456789"
_PER_REQUEST = 5000
_PATIENCE_SECONDS = 600.0
_POLL_SECONDS = 0.02


def main() -> int:
    """Run it; figures to standard output as JSON, the table to standard error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway", description=__doc__)
    parser.add_argument("--reports", type=int, default=40_000)
    parser.add_argument("--array", type=int, default=100, help="reports of one POST in the second scenario")
    parser.add_argument("--json", type=Path, help="write the JSON document there instead")
    arguments = parser.parse_args()
    before = machine()
    with temporary_folder("benchmark") as folder:
        figures = _figures(folder, arguments.reports, arguments.array)
    publish(_TITLE, figures, before, arguments.json)
    return 0


def _figures(folder: Path, reports: int, array: int) -> list[Figure]:
    with ExitStack() as stack:
        _, campaign = stack.enter_context(peers(folder))
        port = choose_port()
        stack.callback(release_port, port)
        spool = folder / "spool.sqlite3"
        environment = {
            "HTTP_LISTEN": f"127.0.0.1:{port}",
            "DLR_SECRETS": _SECRET,
            "DLR_SECRET_HEADER": DLR_SECRET_HEADER,
            "SPOOL_PATH": str(spool),
            "CAMPAIGN_ADDRESS": campaign,
            "DISPATCHER_ADDRESS": campaign,
        }
        gateway, _ = stack.enter_context(
            serving("gateway", ["-m", "bulksms_dlr_gateway", "serve"], folder, environment)
        )
        simulator = stack.enter_context(
            SimulatorProcess(
                folder,
                report_url=f"http://127.0.0.1:{port}{WEBHOOK_PATH}",
                report_headers={DLR_SECRET_HEADER: _SECRET},
            )
        )

        def figure(scenario: str, settings: ReportSettings) -> Figure:
            control = simulator.control
            control.reset()
            control.set_behaviour(reports=settings)
            control.pause_reports()
            owed = _accept(simulator.base_url, reports // 2)
            meter = Meter(gateway=gateway.pid or 0, simulator=simulator.pid)
            control.resume_reports()
            eventually_blocking(
                lambda: control.stats().reports.acknowledged >= owed and not _spooled(spool),
                _PATIENCE_SECONDS,
                "all reports to be taken",
                every_seconds=_POLL_SECONDS,
            )
            return meter.figure(scenario, owed)

        return [
            figure("reports one by one, 64 connections", ReportSettings(connections=64)),
            figure(f"reports in arrays of {array}", ReportSettings(connections=16, batch=array)),
        ]


def _accept(url: str, messages: int) -> int:
    """Have the simulator take messages; the reports it owes for them: each is first sent, then delivered."""
    for start in range(0, messages, _PER_REQUEST):
        size = min(_PER_REQUEST, messages - start)
        wanted = [
            {
                "trafficAccountId": "a",
                "destination": f"+3069{start + number:08d}",
                "sms": {"text": "x", "sender": "Acme"},
            }
            for number in range(size)
        ]
        content = msgspec.json.encode({"messages": wanted})
        response = httpx.post(f"{url}/api/v1.1/Messages/sendmessagesbulk", content=content, timeout=60, trust_env=False)
        response.raise_for_status()
    return 2 * messages


def _spooled(path: Path) -> int:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as connection:
        query = "SELECT (SELECT count(*) FROM fresh) + (SELECT count(*) FROM waiting)"
        return int(connection.execute(query).fetchone()[0])


if __name__ == "__main__":
    raise SystemExit(main())
