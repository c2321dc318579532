"""A stack of its own for the soak, on the servers of the run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.soak.run import ENVIRONMENT, REPLICAS
from devstack.servers import Servers
from devstack.stack import Stack
from devstack.temporary import temporary_stack


@pytest.fixture
def soak_stack(servers: Servers) -> Iterator[Stack]:
    with temporary_stack(REPLICAS, ENVIRONMENT, servers=servers) as running:
        yield running
