"""A stack of its own for the soak, on the servers of the run."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.soak.run import ENVIRONMENT, REPLICAS
from devstack.servers import Servers
from devstack.stack import Stack, StackOptions


@pytest.fixture
def soak_stack(servers: Servers) -> Iterator[Stack]:
    folder = Path(tempfile.mkdtemp(prefix="bulksms-soak-"))
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
