"""Servers for tests: one real PostgreSQL and one real Valkey a run, a database of its own for each test.

`DATABASE_URL` and `REDIS_URL` replace the embedded servers. Under pytest-xdist the controlling process starts the
servers and its workers use them; without it the first test that needs them starts them.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest

from devstack.servers import ServerOptions, Servers
from devstack.temporary import temporary_folder
from servicekit.migrations import upgrade

_SHARED_DATABASE_URL = "BULKSMS_TEST_DATABASE_URL"
_SHARED_REDIS_URL = "BULKSMS_TEST_REDIS_URL"
_open_until_the_end = pytest.StashKey[ExitStack]()
_counter = itertools.count()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Keep all this run's files in one folder that goes with it; start the servers of a parallel run's workers."""
    if os.environ.get("PYTEST_XDIST_WORKER"):
        return
    resources = config.stash[_open_until_the_end] = ExitStack()
    folder = resources.enter_context(temporary_folder("tests", in_memory=True))
    config.option.basetemp = config.option.basetemp or folder / "pytest"  # tryfirst: it is read by pytest's own hook
    if getattr(config.option, "numprocesses", None) and not config.option.collectonly:
        servers = resources.enter_context(Servers(ServerOptions(folder / "servers", ephemeral=True, fsync=False)))
        os.environ[_SHARED_DATABASE_URL] = servers.admin_url
        os.environ[_SHARED_REDIS_URL] = servers.redis_url


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop and remove what was started and made."""
    if _open_until_the_end in config.stash:
        config.stash[_open_until_the_end].close()


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """PostgreSQL and Valkey of this run."""
    folder = tmp_path_factory.mktemp("servers")
    shared = os.environ.get(_SHARED_DATABASE_URL), os.environ.get(_SHARED_REDIS_URL)
    options = (
        ServerOptions(folder, ephemeral=True, database_url=shared[0], redis_url=shared[1])
        if all(shared)
        else ServerOptions(folder, ephemeral=True, fsync=False)
    )
    with Servers(options) as running:
        yield running


@pytest.fixture
def database_url(servers: Servers) -> Iterator[str]:
    """An empty database of this test's own, dropped afterwards."""
    name = f"t{next(_counter)}"
    yield servers.create_database(name).url
    servers.drop_database(name)


@pytest.fixture(scope="session")
def migrated_template(servers: Servers) -> Callable[[Path], str]:
    """Names a database that a folder's migrations have made, once in this process; tests copy it."""
    numbers = itertools.count()

    @cache
    def make(migrations: Path) -> str:
        name = f"migrated{next(numbers)}"
        asyncio.run(upgrade(servers.create_database(name).url, migrations))
        return name

    return make


@pytest.fixture
def migrated_database(servers: Servers, migrated_template: Callable[[Path], str]) -> Iterator[Callable[[Path], str]]:
    """Makes databases of this test's own, as a folder's migrations make them, and gives their URL."""
    names: list[str] = []

    def make(migrations: Path) -> str:
        names.append(f"t{next(_counter)}")
        return servers.clone_database(migrated_template(migrations), names[-1]).url

    yield make
    for name in names:
        servers.drop_database(name)


@pytest.fixture
def redis_url(servers: Servers) -> str:
    """The Valkey of this run; use `redis_key_prefix` for keys of a test's own."""
    return servers.redis_url


@pytest.fixture
def redis_key_prefix(servers: Servers) -> str:
    """What the keys of this test begin with."""
    return f"{servers.redis_key_prefix}t{next(_counter)}:"
