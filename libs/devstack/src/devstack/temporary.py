"""A whole stack for a while: in a folder that goes with it, on servers of its own or of others."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from devstack.servers import Servers
from devstack.stack import Stack, StackOptions

__all__ = ["temporary_stack"]


@contextmanager
def temporary_stack(
    replicas: Mapping[str, int], environment: Mapping[str, str], *, servers: Servers | None = None, traces: bool = False
) -> Iterator[Stack]:
    """So many processes of each service, all with this environment. Without `servers`: own ones, that can be killed."""
    with tempfile.TemporaryDirectory(prefix="bulksms-stack-", ignore_cleanup_errors=True) as folder:
        options = StackOptions(
            folder=Path(folder),
            ephemeral=True,
            fsync=False,  # what was written outlives every process, though not the machine
            replicas=replicas,
            environment=dict.fromkeys(replicas, environment),
            traces=traces,
            database_url=servers.admin_url if servers else None,
            redis_url=servers.redis_url if servers else None,
        )
        with Stack(options) as stack:
            yield stack
