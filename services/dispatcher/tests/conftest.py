"""A migrated database of each test's own, the provider's simulator, the peers, and a dispatcher between them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from redis.asyncio import Redis

from bulksms_dispatcher.app import MIGRATIONS
from bulksms_dispatcher.settings import Settings
from bulksms_dispatcher.workers.traffic_account import TrafficAccount
from devstack.mitto.process import SimulatorProcess
from servicekit.database import Database

from .dispatcher_support import Dispatcher, Peers, Provider, serving, settings_for


@pytest.fixture(scope="session", autouse=True)
def _plain_tracebacks() -> None:
    """structlog's default shows local variables in colour, which takes seconds of the event loop."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback),
        ]
    )


@pytest.fixture
def dispatcher_url(migrated_database: Callable[[Path], str]) -> str:
    """A dispatcher's database of this test's own."""
    return migrated_database(MIGRATIONS)


@pytest.fixture(scope="session")
def simulator_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    with SimulatorProcess(tmp_path_factory.mktemp("mitto"), api_key="key") as process:
        yield process


@pytest.fixture
def simulator(simulator_process: SimulatorProcess) -> Iterator[Provider]:
    """The provider, polite again; its log from here on is the truth."""
    with Provider(simulator_process.control) as provider:
        yield provider


@pytest.fixture
async def peers() -> AsyncIterator[Peers]:
    async with Peers().serving() as served:
        yield served


@pytest.fixture
def configure(
    dispatcher_url: str,
    redis_url: str,
    redis_key_prefix: str,
    simulator: Provider,
    peers: Peers,
    tmp_path: Path,
) -> Callable[..., Settings]:
    """Settings of a dispatcher on this test's servers."""

    def with_changes(**changes: Any) -> Settings:
        return settings_for(
            dispatcher_url, redis_url, redis_key_prefix, simulator.base_url, peers, tmp_path / "journal", **changes
        )

    return with_changes


@pytest.fixture
def holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule taken out: whatever an outcome says against the account, everything goes on being sent."""

    async def overlook(*_: object) -> None:
        """As if nothing were wrong."""

    monkeypatch.setattr(TrafficAccount, "observe", overlook)


@pytest.fixture
async def dispatcher(configure: Callable[..., Settings]) -> AsyncIterator[Dispatcher]:
    async with serving(configure()) as running:
        yield running


@pytest.fixture
async def database(dispatcher_url: str) -> AsyncIterator[Database]:
    """The dispatcher's database, for looking and for moving time."""
    opened = Database(dispatcher_url, application_name="test", pool_size=2)
    yield opened
    await opened.stop()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    """A client of this run's server; a test's keys begin with `redis_key_prefix`."""
    client: Redis = Redis.from_url(redis_url, socket_timeout=2)
    yield client
    await client.aclose()
