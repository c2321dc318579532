"""A simulator for each test, a webhook beside it, and a client that speaks to it as Mitto's clients do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from devstack.mitto.process import SimulatorProcess
from devstack.mitto.sink import ReportSink

Body = dict[str, Any]


@pytest.fixture
def sink() -> Iterator[ReportSink]:
    with ReportSink() as sink:
        yield sink


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[SimulatorProcess]:
    """A simulator without a webhook."""
    with SimulatorProcess(tmp_path, seed=7) as process:
        yield process


@pytest.fixture
def reporting(tmp_path: Path, sink: ReportSink) -> Iterator[SimulatorProcess]:
    """A simulator that reports to `sink`."""
    headers = {"X-Dlr-Secret": "open sesame"}
    with SimulatorProcess(tmp_path, report_url=sink.url, report_headers=headers, seed=7) as process:
        yield process


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=10.0, trust_env=False) as client:
        yield client


@pytest.fixture
def bulk() -> Callable[[int], Body]:
    """Makes the body of a bulk of so many messages, to +306900000000 and up."""

    def make(count: int) -> Body:
        return {"messages": [_message(number) for number in range(count)]}

    return make


def _message(number: int) -> Body:
    return {
        "trafficAccountId": "2d1e5d3c-9f0e-4b55-8c2b-0a6f0c5f7a11",
        "destination": f"+3069{number:08d}",
        "sms": {"text": f"Γειά σου {number}", "sender": "Astronote"},
    }
