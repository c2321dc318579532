"""One gRPC server of ours in a process of its own, with nothing exported and little logged."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from devstack.health import is_serving
from devstack.ports import LOOPBACK, choose_port, release_port
from devstack.process_run import base_environment
from devstack.processes import ManagedProcess

__all__ = ["QUIET", "serving"]

QUIET = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none", "LOG_LEVEL": "WARNING"}


@contextmanager
def serving(
    name: str,
    arguments: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    ready: Callable[[int], bool] = is_serving,
) -> Iterator[tuple[ManagedProcess, str]]:
    """`python …` with GRPC_LISTEN set to where it listens: the process and its address. Its log goes to `folder`.

    It can be killed and started again; its port stays its own until the block is left.
    """
    port = choose_port()
    address = f"{LOOPBACK}:{port}"
    process = ManagedProcess(
        name,
        [sys.executable, *arguments],
        log_path=folder / f"{name}-{port}.log",
        environment={**base_environment(), **QUIET, "GRPC_LISTEN": address, **environment},
        ready=partial(ready, port),
    )
    process.start()
    try:
        yield process, address
    finally:
        process.stop()
        release_port(port)
