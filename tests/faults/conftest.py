"""One stack for all faults, on servers of its own that can be killed: three dispatchers with short leases."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Generator, Iterator
from typing import Any

import pytest

from bulksms.ledger.v1 import ledger_pb2
from bulksms_client import Client
from devstack.mitto.client import Simulator
from devstack.stack import Stack
from devstack.temporary import temporary_stack
from tests.e2e.shop import Shop
from tests.faults.transitions import TransitionLog

REPLICAS = {"campaign": 1, "dispatcher": 3, "ledger": 1, "dlr-gateway": 1}
BATCH_SIZE = 20
# Small batches and a slow provider: whatever strikes a dispatcher finds it sending. The soft timeout is far above
# what the simulator takes, so that a batch is ambiguous because of a strike or not at all.
ENVIRONMENT = {
    "SMS_BATCH_SIZE": str(BATCH_SIZE),
    "WORKER_CONCURRENCY": "3",
    "MITTO_SOFT_TIMEOUT_SECONDS": "5",
    "MITTO_HARD_TIMEOUT_SECONDS": "8",
    "LEASE_SECONDS": "15",
    "DEFERRED_RECHECK_SECONDS": "3",
    "STATUS_REFRESH_AFTER_SECONDS": "3,6,12",
    "STATUS_REFRESH_MAX": "500",
    "RATE_LIMIT_TRAFFIC_ACCOUNT_MAX": "1000",
    "RATE_LIMIT_TENANT_MAX": "500",
    "ACCOUNT_PAUSE_SECONDS": "1",
    "PROBE_AFTER_SECONDS": "0.1",
    "PROBE_AFTER_MAX_SECONDS": "0.2",
    "LOG_FORMAT": "json",
}
CREDITS = 10_000_000


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """They share a stack, and what one does to it the others would feel: one after the other."""
    for item in items:
        if "fault_stack" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("faults"))
            item.add_marker(pytest.mark.stack)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Any, pytest.TestReport]:
    """Show with a failed test where its batches are and how they came there."""
    report: pytest.TestReport = yield
    observed = getattr(item, "funcargs", {}).get("transitions")
    if report.failed and observed is not None:
        moves = Counter((one.origin, one.target, one.reason) for one in observed.read())
        report.sections.append(("transitions of batches", "\n".join(f"{n} x {move}" for move, n in moves.items())))
        report.sections.append(("batches by state and reason", "\n".join(map(str, observed.states()))))
    return report


@pytest.fixture(scope="session")
def fault_stack() -> Iterator[Stack]:
    with temporary_stack(REPLICAS, ENVIRONMENT) as running:
        yield running


@pytest.fixture(scope="session")
def observed(fault_stack: Stack) -> TransitionLog:
    return TransitionLog(fault_stack.database_url("dispatcher"))


@pytest.fixture
def transitions(observed: TransitionLog) -> TransitionLog:
    """What batches did since the test began."""
    observed.begin_again()
    return observed


@pytest.fixture
def simulator(fault_stack: Stack) -> Iterator[Simulator]:
    """The provider, polite again afterwards."""
    with Simulator(fault_stack.simulator.address, fault_stack.simulator.log_path) as control:
        yield control
        control.reset()


@pytest.fixture
def shop(fault_stack: Stack) -> Iterator[Shop]:
    """A tenant with credits and a subscription. Nothing may have ended without being asked to when it leaves."""
    with Client(
        campaign=fault_stack.address("campaign"),
        ledger=fault_stack.address("ledger"),
        dispatcher=fault_stack.address("dispatcher"),
        tenant_id=f"faults-{secrets.token_hex(4)}",
        timeout=20,
    ) as client:
        client.credits.open_account()
        client.credits.set_subscription(ledger_pb2.SUBSCRIPTION_STATUS_ACTIVE, reason="test")
        client.credits.grant(CREDITS)
        yield Shop(client, fault_stack)
    fault_stack.check()
