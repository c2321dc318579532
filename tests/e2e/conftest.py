"""One whole stack for all end-to-end tests of a run: two replicas of every service, the simulator, real servers."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bulksms.ledger.v1 import ledger_pb2
from bulksms_client import Client
from devstack.mitto.client import Simulator
from devstack.servers import Servers
from devstack.stack import Stack
from devstack.temporary import temporary_stack
from tests.e2e.shop import Shop

REPLICAS = {"campaign": 2, "dispatcher": 2, "ledger": 2, "dlr-gateway": 2}
# Small batches, few at a time: what interrupts a campaign must find it under way.
ENVIRONMENT = {
    "SMS_BATCH_SIZE": "100",
    "WORKER_CONCURRENCY": "2",
    "MITTO_SOFT_TIMEOUT_SECONDS": "4",
    "MITTO_HARD_TIMEOUT_SECONDS": "8",
    "LEASE_SECONDS": "15",
    "LOG_FORMAT": "json",
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share a stack run in one process, one after the other."""
    for item in items:
        if "stack" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("stack"))
            item.add_marker(pytest.mark.stack)


@pytest.fixture(scope="session")
def stack(servers: Servers) -> Iterator[Stack]:
    with temporary_stack(REPLICAS, ENVIRONMENT, servers=servers, traces=True) as running:
        yield running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, pytest.TestReport]:
    """Show with a failed test what the services logged at ERROR or above while it ran."""
    report: pytest.TestReport = yield
    running = getattr(item, "funcargs", {}).get("stack")
    if report.failed and running is not None:
        report.sections.append(("errors in the services' logs", _errors(running.folder, since=call.start)))
    return report


@pytest.fixture(autouse=True)
def nothing_crashed(request: pytest.FixtureRequest) -> Iterator[None]:
    """A service that ends without being asked to fails the test it did so in."""
    yield
    if "stack" in request.fixturenames:
        request.getfixturevalue("stack").check()


@pytest.fixture
def simulator(stack: Stack) -> Iterator[Simulator]:
    """The provider, polite again afterwards."""
    with Simulator(stack.simulator.address, stack.simulator.log_path) as control:
        yield control
        control.reset()


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    """A client for a new tenant that has an account and nothing else."""
    environment = stack.client_environment
    with Client(
        campaign=environment["BULKSMS_CAMPAIGN"],
        ledger=environment["BULKSMS_LEDGER"],
        dispatcher=environment["BULKSMS_DISPATCHER"],
        tenant_id=f"shop-{secrets.token_hex(4)}",
    ) as opened:
        opened.credits.open_account()
        yield opened


@pytest.fixture
def funded(client: Client) -> Client:
    """The client of a tenant with an active subscription and 100,000 credits."""
    client.credits.set_subscription(ledger_pb2.SUBSCRIPTION_STATUS_ACTIVE, reason="test")
    client.credits.grant(100_000, reason="test")
    return client


@pytest.fixture
def shop(funded: Client, stack: Stack) -> Shop:
    """A tenant with credits and a subscription."""
    return Shop(funded, stack)


def _errors(folder: Path, since: float) -> str:
    """The lines of the services' JSON logs that say error or worse, from `since` on."""
    start = datetime.fromtimestamp(since, UTC).isoformat()[:19]
    found = []
    for path in sorted((folder / "logs").glob("*.log")):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        bad = [line for line in lines if '"level": "error"' in line or '"level": "critical"' in line]
        found += [f"{path.stem}: {line[:4_000]}" for line in bad if line.partition('"timestamp": "')[2][:19] >= start]
    return "\n".join(found[-20:])
