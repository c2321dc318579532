"""What must not grow while a soak runs: memory of each process, what waits in tables and on disk, errors in logs."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from statistics import median

import psutil

from devstack import sql
from devstack.stack import Stack

__all__ = ["Growth", "Watch", "backlog", "errors_logged"]

_SAMPLES = 200
_MIN_SECONDS_BETWEEN = 1.0
_WARM_UP_SHARE = 0.3
_WINDOW_SHARE = 0.15

# Each is empty when everything sent has come to its end.
_DISPATCHER_BACKLOG = {
    "outbox": "SELECT count(*) FROM outbox",
    "evidence": "SELECT count(*) FROM evidence",
    "refreshes": "SELECT count(*) FROM report_refreshes",
    "uncaptured": "SELECT count(*) FROM uncaptured_credits",
}


@dataclass(frozen=True, slots=True)
class Growth:
    """Resident memory of one process: medians after warm-up and at the end, and the most that was seen."""

    process: str
    warm_mb: float
    end_mb: float
    peak_mb: float
    mb_per_hour: float

    @property
    def share(self) -> float:
        """Of what it had after warm-up."""
        return self.end_mb / self.warm_mb - 1


class Watch:
    """Samples the memory of a stack's processes while a block runs, and the most that waited anywhere."""

    def __init__(self, stack: Stack, seconds: float) -> None:
        self._stack = stack
        self._every = max(seconds / _SAMPLES, _MIN_SECONDS_BETWEEN)
        self._samples: defaultdict[str, list[float]] = defaultdict(list)
        self._over = threading.Event()
        self.most_waiting: Counter[str] = Counter()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Sample until the block ends."""
        with ThreadPoolExecutor(1, thread_name_prefix="watch") as thread:
            watching = thread.submit(self._run)
            try:
                yield
            finally:
                self._over.set()
            watching.result()

    def growth(self) -> list[Growth]:
        """By process, in the order of their names."""
        return [self._growth(name, samples) for name, samples in sorted(self._samples.items()) if len(samples) > 1]

    def _growth(self, name: str, samples: list[float]) -> Growth:
        window = max(1, round(len(samples) * _WINDOW_SHARE))
        first = min(round(len(samples) * _WARM_UP_SHARE), len(samples) - 1)
        warm, end = median(samples[first : first + window]), median(samples[-window:])
        hours = max(len(samples) - window - first, 1) * self._every / 3600
        return Growth(name, warm, end, max(samples), (end - warm) / hours)

    def _run(self) -> None:
        while not self._over.wait(self._every):
            for name, process in self._stack.processes.items():
                if process.pid is not None and not name.startswith("migrate-"):
                    self._samples[name].append(_resident_mb(process.pid))
            for name, count in backlog(self._stack).items():
                self.most_waiting[name] = max(self.most_waiting[name], count)


def backlog(stack: Stack) -> dict[str, int]:
    """What waits: rows in the dispatcher's tables, segments of its journals, reports in the gateways' spools."""
    queries = ", ".join(f"({query})" for query in _DISPATCHER_BACKLOG.values())
    (counts,) = sql.fetch(stack.database_url("dispatcher"), f"SELECT {queries}")
    found = dict(zip(_DISPATCHER_BACKLOG, counts, strict=True))
    found["journal segments"] = len(list(stack.folder.glob("dispatcher-*/journal/*/*.journal")))
    found["spooled reports"] = sum(_spooled(str(path)) for path in stack.folder.glob("dlr-gateway-*/spool.sqlite3"))
    return found


def errors_logged(stack: Stack) -> Counter[str]:
    """Lines of the services' JSON logs at error or above, by service and event."""
    found: Counter[str] = Counter()
    for path in sorted((stack.folder / "logs").glob("*.log")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if '"level": "error"' in line or '"level": "critical"' in line:
                found[f"{path.stem}: {json.loads(line).get('event')}"] += 1
    return found


def _resident_mb(pid: int) -> float:
    return float(psutil.Process(pid).memory_info().rss) / 1e6


def _spooled(path: str) -> int:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as connection:
        query = "SELECT (SELECT count(*) FROM fresh) + (SELECT count(*) FROM waiting)"
        return int(connection.execute(query).fetchone()[0])
