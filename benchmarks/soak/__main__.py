"""`python -m benchmarks.soak`: steady traffic through the whole stack; exit code 1 when the end shows a problem."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.report import machine
from benchmarks.soak.run import ENVIRONMENT, REPLICAS, Soaked, soak
from benchmarks.soak.traffic import Pace
from devstack.stack import Stack, StackOptions
from devstack.temporary import temporary_folder


def main() -> int:
    """Run it; JSON to standard output, the table to standard error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--campaign-every", type=float, default=4.0, help="seconds from one campaign to the next")
    parser.add_argument("--single-every", type=float, default=0.5, help="seconds from one single message to the next")
    parser.add_argument("--seed", type=int, default=20261122)
    parser.add_argument("--json", type=Path, help="write the JSON document there instead")
    arguments = parser.parse_args()
    pace = Pace(arguments.minutes * 60, arguments.campaign_every, arguments.single_every, arguments.seed)
    before = machine()
    with temporary_folder("soak") as folder:
        options = StackOptions(
            folder / "stack",
            ephemeral=True,
            replicas=REPLICAS,
            environment=dict.fromkeys(REPLICAS, ENVIRONMENT),
            traces=False,
        )
        with Stack(options) as stack:
            result = soak(stack, pace)
    show(result, Console(stderr=True, width=120))
    document = {"before": before, "after": machine(), **result.as_document()}
    text = json.dumps(document, indent=2) + "\n"
    if arguments.json:
        arguments.json.write_text(text)
    else:
        sys.stdout.write(text)
    return 1 if result.problems else 0


def show(result: Soaked, console: Console) -> None:
    """Print the tables and the problems."""
    console.print(
        f"{result.campaigns:,} campaigns and {result.single_messages:,} single messages in {result.seconds:,.0f} s: "
        f"{result.provider.accepted_messages:,} messages accepted, {result.provider.reports.sent:,} reports sent, "
        f"{result.provider.reports.lost:,} lost"
    )
    memory = Table(title="Resident memory, MB")
    for heading in ("process", "after warm-up", "at the end", "growth", "an hour", "most"):
        memory.add_column(heading, justify="left" if heading == "process" else "right")
    for one in result.growth:
        figures = (f"{one.warm_mb:.0f}", f"{one.end_mb:.0f}", f"{one.share:+.1%}", f"{one.mb_per_hour:+.0f}")
        memory.add_row(one.process, *figures, f"{one.peak_mb:.0f}")
    console.print(memory)
    waiting = Table(title="Waiting")
    for heading in ("what", "most", "at the end"):
        waiting.add_column(heading, justify="left" if heading == "what" else "right")
    for name, count in result.left.items():
        waiting.add_row(name, f"{result.most_waiting.get(name, 0):,}", f"{count:,}")
    console.print(waiting)
    console.print("\n".join(result.problems) or "Nothing lost, nothing twice, nothing left behind.", markup=False)


if __name__ == "__main__":
    raise SystemExit(main())
