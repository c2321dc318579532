"""`python -m benchmarks.dispatcher`: throughput, cost by stage, memory, fairness and priority; a table and JSON."""

from __future__ import annotations

import argparse
from pathlib import Path

import uvloop

from benchmarks.dispatcher.fairness import many_at_once, small_beside_large, urgent_before_low
from benchmarks.dispatcher.parts import part_by_part
from benchmarks.dispatcher.processes import Bench, bench
from benchmarks.dispatcher.stages import stage_by_stage
from benchmarks.dispatcher.throughput import whole_way
from benchmarks.report import Figure, machine, publish
from devstack.temporary import temporary_folder
from servicekit import logs

_TITLE = "Limits off; simulator, PostgreSQL (fsync on) and peers beside it"


def main() -> int:
    """Run it; figures to standard output as JSON, the table to standard error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dispatcher", description=__doc__)
    parser.add_argument("--recipients", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--batch-size", type=int, default=5000)
    parser.add_argument("--stage-batches", type=int, default=40, help="batches sent one by one to split the cost")
    parser.add_argument("--large", type=int, default=1_000_000, help="recipients that others wait beside; 0: none")
    parser.add_argument("--tenants", type=int, default=200, help="between whom as many are divided")
    parser.add_argument("--small", type=int, default=20, help="tenants who come with ten recipients meanwhile")
    parser.add_argument("--urgent", type=int, default=50, help="single messages, and normal campaigns, beside low ones")
    parser.add_argument("--latency", type=float, nargs="+", default=[0.25, 2.0], help="seconds the provider takes")
    parser.add_argument("--json", type=Path, help="write the JSON document there instead")
    arguments = parser.parse_args()
    logs.configure("WARNING")
    before = machine()
    with temporary_folder("benchmark") as folder, bench(folder) as running:
        figures = uvloop.run(_run(running, arguments))
    publish(_TITLE, figures, before, arguments.json)
    return 0


async def _run(running: Bench, arguments: argparse.Namespace) -> list[Figure]:
    figures = part_by_part(arguments.batch_size)
    figures += await stage_by_stage(running, arguments.stage_batches, arguments.batch_size)
    for recipients in arguments.recipients:
        figures += await whole_way(running, recipients, arguments.batch_size)
    if arguments.large:
        figures += await _beside(running, arguments)
    return figures


async def _beside(running: Bench, arguments: argparse.Namespace) -> list[Figure]:
    """With the first latency all of them; with the others, the one whose figures they decide."""
    large, size, (latency, *slower) = arguments.large, arguments.batch_size, arguments.latency
    figures = await small_beside_large(running, large, size, arguments.small, latency)
    for seconds in slower:
        figures += await small_beside_large(running, large, size, arguments.small, seconds)
    figures += await many_at_once(running, large, arguments.tenants, latency)
    return figures + await urgent_before_low(running, large, size, arguments.urgent, latency)


if __name__ == "__main__":
    raise SystemExit(main())
