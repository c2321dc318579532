"""The processes a benchmark runs beside itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from devstack.ports import accepts_connections
from devstack.processes import ManagedProcess
from devstack.serving import serving

__all__ = ["ROOT", "peers"]

ROOT = Path(__file__).resolve().parents[1]


@contextmanager
def peers(folder: Path) -> Iterator[tuple[ManagedProcess, str]]:
    """The other services, standing in: they take everything and keep nothing."""
    with serving(
        "peers", ["-m", "benchmarks.peers"], folder, {"PYTHONPATH": str(ROOT)}, accepts_connections
    ) as started:
        yield started
