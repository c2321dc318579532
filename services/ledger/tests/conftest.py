"""A migrated ledger database of each test's own, and a ledger that serves it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator

import pytest

from bulksms.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from bulksms_ledger.app import MIGRATIONS
from devstack.servers import Servers
from servicekit import migrations
from servicekit.clock import ManualClock

from .ledger_support import Ids, Tenant, serving

_TEMPLATE = "ledger_template"
_counter = itertools.count()


@pytest.fixture(scope="session")
def template(servers: Servers) -> str:
    """Name of a database that has been migrated once, to be copied for each test."""
    asyncio.run(migrations.upgrade(servers.create_database(_TEMPLATE).url, MIGRATIONS))
    return _TEMPLATE


@pytest.fixture
def ledger_url(servers: Servers, template: str) -> Iterator[str]:
    """A ledger database of this test's own."""
    name = f"ledger_{next(_counter)}"
    yield servers.clone_database(template, name).url
    servers.drop_database(name)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def ids() -> Ids:
    return Ids()


@pytest.fixture
async def ledger(ledger_url: str, clock: ManualClock) -> AsyncIterator[LedgerServiceStub]:
    """A ledger whose time is the test's clock."""
    async with serving(ledger_url, clock) as stub:
        yield stub


@pytest.fixture
def tenant(ledger: LedgerServiceStub, ids: Ids) -> Tenant:
    """A tenant without an account yet."""
    return Tenant(ledger, ids)
