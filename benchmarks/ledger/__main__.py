"""`python -m benchmarks.ledger`: every scenario in one run, on one database; a table and a JSON document."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvloop
from rich.console import Console

from benchmarks.ledger.inside import authorizations_inside, captures_inside
from benchmarks.ledger.over_grpc import batch_authorizations, batch_captures, empty_rpc, unary_captures
from benchmarks.ledger.row_lock import row_lock_per_request
from benchmarks.ledger.stages import stages
from benchmarks.report import Figure, machine, show
from bulksms_ledger.app import MIGRATIONS
from devstack.postgres import EmbeddedPostgres
from devstack.temporary import temporary_folder
from servicekit import logs, migrations

_ITEMS = {
    "row": 3_000,
    "stages": 4_000,
    "inside": 60_000,
    "inside64": 10_000,
    "unary": 12_000,
    "batch": 60_000,
    "empty": 12_000,
    "authorize": 30_000,
    "authorize64": 10_000,
    "authorizebatch": 30_000,
}


def main() -> int:
    """Run what is asked for; figures to standard output as JSON, the table to standard error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ledger", description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of items of every scenario")
    parser.add_argument("--only", nargs="+", choices=sorted(_ITEMS), default=sorted(_ITEMS), help="scenarios to run")
    parser.add_argument("--json", type=Path, help="write the JSON document there instead")
    arguments = parser.parse_args()
    logs.configure("WARNING")
    before = machine()
    with temporary_folder("benchmark") as folder, _postgres(folder) as (url, pid):
        figures = uvloop.run(_run(arguments, url, pid, folder))
    show("One hot tenant, synchronous_commit=on", figures, Console(stderr=True, width=140))
    document = {"before": before, "after": machine(), "figures": [figure.as_document() for figure in figures]}
    text = json.dumps(document, indent=2) + "\n"
    if arguments.json:
        arguments.json.write_text(text)
    else:
        sys.stdout.write(text)
    return 0


@contextmanager
def _postgres(folder: Path) -> Iterator[tuple[str, int]]:
    """A PostgreSQL of our own that writes through to the disk: its URL and process id."""
    postgres = EmbeddedPostgres(folder / "postgres", fsync=True)
    postgres.start()
    try:
        yield postgres.url, postgres.process.pid or 0
    finally:
        postgres.remove()


async def _run(arguments: argparse.Namespace, url: str, postgres: int, folder: Path) -> list[Figure]:
    await migrations.upgrade(url, MIGRATIONS)
    figures: list[Figure] = []

    def items(name: str) -> int:
        return max(1000, int(_ITEMS[name] * arguments.scale)) if name in arguments.only else 0

    if count := items("row"):
        figures.append(await row_lock_per_request(url, postgres, callers=64, items=count))
    if count := items("stages"):
        figures += stages(items=count)
    if count := items("inside64"):
        figures.append(await captures_inside(url, postgres, callers=64, items=count))
    if count := items("inside"):
        figures.append(await captures_inside(url, postgres, callers=4000, items=count))
    if count := items("empty"):
        figures.append(await asyncio.to_thread(empty_rpc, folder, skeleton=False, callers=64, items=count))
        figures.append(await asyncio.to_thread(empty_rpc, folder, skeleton=True, callers=64, items=count))
    if count := items("unary"):
        figures.append(await unary_captures(url, postgres, folder, callers=64, items=count))
    if count := items("batch"):
        figures.append(await batch_captures(url, postgres, folder, callers=4, items=count))
    return figures + await _authorizations(items, url, postgres, folder)


async def _authorizations(items: Callable[[str], int], url: str, postgres: int, folder: Path) -> list[Figure]:
    figures: list[Figure] = []
    if count := items("authorize64"):
        figures.append(await authorizations_inside(url, postgres, callers=64, items=count))
    if count := items("authorize"):
        figures.append(await authorizations_inside(url, postgres, callers=4000, items=count))
    if count := items("authorizebatch"):
        for size, callers in ((16, 8), (1000, 4)):
            figures.append(await batch_authorizations(url, postgres, folder, callers=callers, batch=size, items=count))
    return figures


if __name__ == "__main__":
    raise SystemExit(main())
