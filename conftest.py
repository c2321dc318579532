"""Servers for tests: one real PostgreSQL and one real Valkey a run, a database of its own for each test.

`DATABASE_URL` and `REDIS_URL` replace the embedded servers. Under pytest-xdist the controlling process starts the
servers and its workers use them; without it the first test that needs them starts them.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from devstack.servers import ServerOptions, Servers

_SHARED_DATABASE_URL = "BULKSMS_TEST_DATABASE_URL"
_SHARED_REDIS_URL = "BULKSMS_TEST_REDIS_URL"
_running = pytest.StashKey[tuple[Servers, Path]]()
_counter = itertools.count()


def pytest_configure(config: pytest.Config) -> None:
    """Start the servers in the controlling process of a parallel run, and hand their addresses to its workers."""
    workers = getattr(config.option, "numprocesses", None)
    if not workers or os.environ.get("PYTEST_XDIST_WORKER") or config.option.collectonly:
        return
    folder = Path(tempfile.mkdtemp(prefix="bulksms-tests-"))
    servers = Servers(ServerOptions(folder, ephemeral=True, fsync=False)).__enter__()
    config.stash[_running] = (servers, folder)
    os.environ[_SHARED_DATABASE_URL] = servers.admin_url
    os.environ[_SHARED_REDIS_URL] = servers.redis_url


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop what was started."""
    if _running in config.stash:
        servers, folder = config.stash[_running]
        servers.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    """PostgreSQL and Valkey of this run."""
    with _own_folder() as folder:
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


@pytest.fixture
def redis_url(servers: Servers) -> str:
    """The Valkey of this run; use `redis_key_prefix` for keys of a test's own."""
    return servers.redis_url


@pytest.fixture
def redis_key_prefix(servers: Servers) -> str:
    """What the keys of this test begin with."""
    return f"{servers.redis_key_prefix}t{next(_counter)}:"


@contextmanager
def _own_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="bulksms-tests-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
