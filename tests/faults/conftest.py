"""A stack of its own for each storm: three dispatchers with short leases, two replicas of everything else."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from devstack.mitto.client import Simulator
from devstack.servers import Servers
from devstack.stack import Stack, StackOptions

REPLICAS = {"campaign": 2, "dispatcher": 3, "ledger": 2, "dlr-gateway": 1}
ENVIRONMENT = {
    "SMS_BATCH_SIZE": "100",
    "WORKER_CONCURRENCY": "3",
    "MITTO_SOFT_TIMEOUT_SECONDS": "2",
    "MITTO_HARD_TIMEOUT_SECONDS": "6",
    "LEASE_SECONDS": "12",
    "LOG_FORMAT": "json",
}


@pytest.fixture
def storm_stack(servers: Servers) -> Iterator[Stack]:
    folder = Path(tempfile.mkdtemp(prefix="bulksms-faults-"))
    options = StackOptions(
        folder=folder,
        ephemeral=True,
        replicas=REPLICAS,
        environment=dict.fromkeys(REPLICAS, ENVIRONMENT),
        traces=False,
        database_url=servers.admin_url,
        redis_url=servers.redis_url,
    )
    try:
        with Stack(options) as running:
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def storm_simulator(storm_stack: Stack) -> Iterator[Simulator]:
    with Simulator(storm_stack.simulator.address, storm_stack.simulator.log_path) as control:
        yield control
