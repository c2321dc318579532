"""The report: what a scenario took, in wall time and in the CPU time of every process that had a part in it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

_WORDS = ("scenario", "CPU per item, µs", "peak memory", "more")


@dataclass(frozen=True, slots=True)
class Figure:
    """One scenario's result; CPU in microseconds per item, latencies in milliseconds."""

    scenario: str
    items: int
    seconds: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    max_ms: float | None = None
    cpu_us: Mapping[str, float] = field(default_factory=dict)
    peak_mb: Mapping[str, float] = field(default_factory=dict)
    """Most resident memory of a process, where it was watched."""
    more: Mapping[str, float] = field(default_factory=dict)
    """What else there is to say of this scenario, each with its unit in its name."""

    @property
    def per_second(self) -> float:
        """Items per second of wall time."""
        return self.items / self.seconds

    def as_document(self) -> dict[str, object]:
        """The figure for JSON."""
        return {**asdict(self), "per_second": round(self.per_second, 1)}


class Meter:
    """Measures from its making to `figure`; `processes` are named groups of process ids, children included."""

    def __init__(self, **processes: int) -> None:
        self._processes = processes
        self._before = {name: _cpu_seconds(pid) for name, pid in processes.items()}
        self._started = time.perf_counter()

    def figure(self, scenario: str, items: int, latencies: Sequence[float] = ()) -> Figure:
        """What was spent since."""
        seconds = time.perf_counter() - self._started
        cpu = {
            name: round((_cpu_seconds(pid) - self._before[name]) / items * 1e6, 1)
            for name, pid in self._processes.items()
        }
        p50, p99 = percentile_ms(latencies, 0.50), percentile_ms(latencies, 0.99)
        return Figure(scenario, items, round(seconds, 3), p50, p99, cpu_us=cpu)


def percentile_ms(latencies: Sequence[float], share: float) -> float | None:
    """The latency, in milliseconds, that this share of calls did not exceed."""
    if not latencies:
        return None
    return round(sorted(latencies)[min(len(latencies) - 1, int(len(latencies) * share))] * 1000, 2)


def show(title: str, figures: Sequence[Figure], console: Console) -> None:
    """Print the table, without columns that would be empty."""
    headings = ("scenario", "items", "per second", "p50 ms", "p99 ms", "max ms", *_WORDS[1:])
    columns = list(zip(headings, *(_cells(figure) for figure in figures), strict=True))
    filled = [column for column in columns if any(column[1:])]
    table = Table(title=title)
    for heading, *_ in filled:
        table.add_column(heading, justify="left" if heading in _WORDS else "right")
    for row in zip(*(cells for _, *cells in filled), strict=True):
        table.add_row(*row)
    console.print(table)


def publish(title: str, figures: Sequence[Figure], before: Mapping[str, object], path: Path | None) -> None:
    """The table to standard error; the JSON document to a file, or to standard output."""
    show(title, figures, Console(stderr=True, width=170))
    document = {"before": before, "after": machine(), "figures": [figure.as_document() for figure in figures]}
    text = json.dumps(document, indent=2) + "\n"
    if path is None:
        sys.stdout.write(text)
    else:
        path.write_text(text)


def machine() -> dict[str, object]:
    """What the figures were measured on, and what else was going on."""
    return {"cores": os.cpu_count(), "load_average": [round(load, 2) for load in os.getloadavg()]}


def _cells(figure: Figure) -> tuple[str, ...]:
    latency = ["" if value is None else f"{value:,.1f}" for value in (figure.p50_ms, figure.p99_ms, figure.max_ms)]
    cpu = "  ".join(f"{name} {spent:,.1f}" for name, spent in figure.cpu_us.items())
    peak = "  ".join(f"{name} {megabytes:,.0f} MB" for name, megabytes in figure.peak_mb.items())
    more = "\n".join(f"{name} {value:,.4g}" for name, value in figure.more.items())
    return figure.scenario, f"{figure.items:,}", f"{figure.per_second:,.0f}", *latency, cpu, peak, more


def _cpu_seconds(pid: int) -> float:
    """Of a process, its living children, and those of its children that have been waited for."""
    total = 0.0
    process = psutil.Process(pid)
    for one in [process] if pid == os.getpid() else [process, *process.children(recursive=True)]:
        try:
            times = one.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total
