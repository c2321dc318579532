"""Real servers for the tests of the development stack."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from devstack.servers import ServerOptions, Servers


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Embedded servers of the module's own."""
    options = ServerOptions(
        tmp_path_factory.mktemp("servers"), ephemeral=True, fsync=False, database_url=None, redis_url=None
    )
    with Servers(options) as running:
        yield running
