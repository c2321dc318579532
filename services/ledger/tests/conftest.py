"""A migrated ledger database of each test's own, and a ledger that serves it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from bulksms.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from bulksms_ledger.app import MIGRATIONS
from servicekit.clock import ManualClock

from .ledger_support import Ids, Tenant, serving


@pytest.fixture
def ledger_url(migrated_database: Callable[[Path], str]) -> str:
    """A ledger database of this test's own."""
    return migrated_database(MIGRATIONS)


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
