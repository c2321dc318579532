"""The service running in this process on a real PostgreSQL, with small real servers in the place of its peers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import bulksms_campaign
from bulksms.dispatcher.v1.dispatch_pb2_grpc import add_DispatchServiceServicer_to_server
from bulksms.ledger.v1.ledger_pb2_grpc import add_LedgerServiceServicer_to_server
from bulksms_campaign.app import build
from bulksms_campaign.settings import Settings
from devstack.ledger_stand_in import LedgerStandIn
from servicekit.database import Database
from servicekit.grpc.server import GrpcServer, build_server
from servicekit.lifecycle import running
from servicekit.settings import ServiceSettings, load

from .campaign_support import DispatcherStandIn, Service

MIGRATIONS = Path(bulksms_campaign.__file__).parent / "migrations"


@pytest.fixture
def campaign_database_url(migrated_database: Callable[[Path], str]) -> str:
    """A migrated database of this test's own."""
    return migrated_database(MIGRATIONS)


@pytest.fixture
async def campaign_database(campaign_database_url: str) -> AsyncIterator[Database]:
    database = Database(campaign_database_url, application_name="test", pool_size=5)
    await database.start()
    yield database
    await database.stop()


@pytest.fixture
def ledger() -> LedgerStandIn:
    return LedgerStandIn()  # type: ignore[abstract]  # what is not called need not be there


@pytest.fixture
def dispatcher() -> DispatcherStandIn:
    return DispatcherStandIn()


@pytest.fixture
def service_settings() -> dict[str, Any]:
    """Settings a test changes by overriding this fixture."""
    return {}


@pytest.fixture
async def peers(ledger: LedgerStandIn, dispatcher: DispatcherStandIn) -> AsyncIterator[GrpcServer]:
    """Where ledger and dispatcher listen."""
    server = build_server(
        load(ServiceSettings, grpc_listen="127.0.0.1:0", shutdown_grace_seconds=0.1),
        [
            (add_LedgerServiceServicer_to_server, ledger, "bulksms.ledger.v1.LedgerService"),
            (add_DispatchServiceServicer_to_server, dispatcher, "bulksms.dispatcher.v1.DispatchService"),
        ],
    )
    async with running([server]):
        yield server


@pytest.fixture
async def service(
    campaign_database_url: str,
    campaign_database: Database,
    peers: GrpcServer,
    ledger: LedgerStandIn,
    dispatcher: DispatcherStandIn,
    service_settings: dict[str, Any],
) -> AsyncIterator[Service]:
    settings = load(
        Settings,
        grpc_listen="127.0.0.1:0",
        database_url=campaign_database_url,
        database_pool_size=10,
        ledger_address=peers.address,
        dispatcher_address=peers.address,
        shutdown_grace_seconds=0.5,
        reserve_timeout_seconds=2,
        **service_settings,
    )
    components = await build(settings)
    server = components[-1]
    assert isinstance(server, GrpcServer)
    async with running(components):
        made = Service(server.address, campaign_database, ledger, dispatcher)
        yield made
        await made.channel.close()
