"""A server of ours in a process of its own, with nothing exported and little logged."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from devstack.health import is_serving
from devstack.ports import accepts_connections, choose_port, release_port
from devstack.process_run import base_environment
from devstack.processes import ManagedProcess

__all__ = ["QUIET", "ROOT", "peers", "serving"]

ROOT = Path(__file__).resolve().parents[1]
QUIET = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none", "LOG_LEVEL": "WARNING"}


@contextmanager
def serving(
    name: str,
    arguments: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    ready: Callable[[int], bool] = is_serving,
) -> Iterator[tuple[ManagedProcess, str]]:
    """`python …` told in GRPC_LISTEN where to listen: the process and its address."""
    port = choose_port()
    process = ManagedProcess(
        name,
        [sys.executable, *arguments],
        log_path=folder / f"{name}-{port}.log",
        environment={**base_environment(), **QUIET, "GRPC_LISTEN": f"127.0.0.1:{port}", **environment},
        folder=ROOT,
        ready=partial(ready, port),
    )
    process.start()
    try:
        yield process, f"127.0.0.1:{port}"
    finally:
        process.stop()
        release_port(port)


@contextmanager
def peers(folder: Path) -> Iterator[tuple[ManagedProcess, str]]:
    """The other services, standing in: they take everything and keep nothing."""
    with serving("peers", ["-m", "benchmarks.peers"], folder, {}, accepts_connections) as started:
        yield started
