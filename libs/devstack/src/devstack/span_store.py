"""Spans in one SQLite file: written in batches by the store's process, read by whoever prints a trace."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

AttributeValue = str | int | float | bool | list[object]

_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = OFF;  -- a development tool: spans need not survive the machine
CREATE TABLE IF NOT EXISTS spans (
    number INTEGER PRIMARY KEY,  -- order of arrival: the oldest go first when there are too many
    trace_id BLOB NOT NULL, span_id BLOB NOT NULL, parent_id BLOB NOT NULL,
    service TEXT NOT NULL, name TEXT NOT NULL, kind INTEGER NOT NULL,
    start_ns INTEGER NOT NULL, end_ns INTEGER NOT NULL,
    failed INTEGER NOT NULL, message TEXT NOT NULL, attributes TEXT NOT NULL, has_links INTEGER NOT NULL
);
-- One span once: an exporter repeats what it isn't sure has arrived.
CREATE UNIQUE INDEX IF NOT EXISTS spans_by_trace ON spans (trace_id, span_id);
CREATE TABLE IF NOT EXISTS links (
    trace_id BLOB NOT NULL, span_id BLOB NOT NULL, to_trace_id BLOB NOT NULL, to_span_id BLOB NOT NULL,
    PRIMARY KEY (trace_id, span_id, to_trace_id, to_span_id)
) WITHOUT ROWID;
-- "Who links to this trace?"
CREATE INDEX IF NOT EXISTS links_by_target ON links (to_trace_id);
"""

_COLUMNS = "trace_id, span_id, parent_id, service, name, kind, start_ns, end_ns, failed, message, attributes"


@dataclass(frozen=True, slots=True)
class SpanKey:
    """What names a span: 16 and 8 bytes."""

    trace_id: bytes
    span_id: bytes


@dataclass(frozen=True, slots=True)
class Span:
    """One finished span as it was exported."""

    key: SpanKey
    parent_id: bytes
    """Empty for a root."""
    service: str
    name: str
    kind: int
    start_ns: int
    end_ns: int
    failed: bool = False
    message: str = ""
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)
    links: tuple[SpanKey, ...] = ()

    @property
    def duration_ms(self) -> float:
        """How long it took."""
        return (self.end_ns - self.start_ns) / 1e6


class SpanWriter:
    """Appends spans; the file is bounded by `span_limit`, beyond which the oldest go."""

    def __init__(self, path: Path, span_limit: int = 1_000_000) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, check_same_thread=False, timeout=10.0)
        self._connection.executescript(_SCHEMA)
        self._span_limit = span_limit

    def append(self, spans: Iterable[Span]) -> None:
        """Write spans in one transaction; those already there are left as they are."""
        rows, links = [], []
        for span in spans:
            key = span.key
            attributes = json.dumps(span.attributes, ensure_ascii=False)
            place = (key.trace_id, key.span_id, span.parent_id, span.service, span.name, span.kind)
            rows.append((*place, span.start_ns, span.end_ns, span.failed, span.message, attributes, bool(span.links)))
            links += [(key.trace_id, key.span_id, link.trace_id, link.span_id) for link in span.links]
        with self._connection:
            self._connection.executemany(
                f"INSERT OR IGNORE INTO spans ({_COLUMNS}, has_links) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
                rows,
            )
            self._connection.executemany("INSERT OR IGNORE INTO links VALUES (?, ?, ?, ?)", links)
            self._forget_oldest()

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _forget_oldest(self) -> None:
        first, last = self._connection.execute("SELECT min(number), max(number) FROM spans").fetchone()
        if first is None or last - first < self._span_limit:
            return
        # A tenth more than needed, so that it is seldom done.
        until = last - self._span_limit + self._span_limit // 10
        self._connection.execute(
            "DELETE FROM links WHERE (trace_id, span_id) IN "
            "(SELECT trace_id, span_id FROM spans WHERE number <= ? AND has_links)",
            (until,),
        )
        self._connection.execute("DELETE FROM spans WHERE number <= ?", (until,))


class SpanReader:
    """Reads a store that may be written at the same time."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise FileNotFoundError(f"there is no span store at {path}: nothing has been traced here yet")
        self._path = path

    def trace(self, trace_id: bytes, limit: int) -> list[Span]:
        """Return the spans of a trace by start time, at most `limit`."""
        return self._select("WHERE trace_id = ? ORDER BY start_ns, span_id LIMIT ?", trace_id, limit)

    def count(self, trace_id: bytes) -> int:
        """Return how many spans a trace has."""
        return int(self._query("SELECT count(*) FROM spans WHERE trace_id = ?", trace_id)[0][0])

    def span(self, key: SpanKey) -> Span | None:
        """Return one span, or None when it hasn't arrived."""
        found = self._select("WHERE trace_id = ? AND span_id = ?", key.trace_id, key.span_id)
        return found[0] if found else None

    def linked_to(self, trace_id: bytes, limit: int) -> list[tuple[SpanKey, SpanKey]]:
        """Return (a span of another trace, the span of this trace that it links to), at most `limit` pairs."""
        rows = self._query(
            "SELECT l.trace_id, l.span_id, l.to_span_id FROM links l "
            "WHERE l.to_trace_id = ? AND l.trace_id <> l.to_trace_id LIMIT ?",
            trace_id,
            limit,
        )
        return [(SpanKey(row[0], row[1]), SpanKey(trace_id, row[2])) for row in rows]

    def newest_traces(self, count: int) -> list[tuple[bytes, str, str, int, float]]:
        """Return (trace id, service, name of the root, start in ns, duration in ms), newest first."""
        rows = self._query(
            "SELECT trace_id, service, name, start_ns, (end_ns - start_ns) / 1e6 FROM spans "
            "WHERE parent_id = x'' ORDER BY number DESC LIMIT ?",
            count,
        )
        return [(row[0], row[1], row[2], row[3], row[4]) for row in rows]

    def traces_mentioning(self, text: str) -> list[tuple[bytes, int, bool]]:
        """Return (trace id, spans that mention it, whether one of them enqueues) for an id found in attributes."""
        rows = self._query(
            "SELECT trace_id, count(*), max(name LIKE '%EnqueueCampaign%') FROM spans "
            "WHERE instr(attributes, ?) > 0 GROUP BY trace_id ORDER BY 3 DESC, 2 DESC",
            json.dumps(text),
        )
        return [(row[0], row[1], bool(row[2])) for row in rows]

    def _select(self, condition: str, *arguments: object) -> list[Span]:
        rows = self._query(f"SELECT {_COLUMNS}, has_links FROM spans {condition}", *arguments)  # noqa: S608
        return list(self._spans(rows))

    def _spans(self, rows: list[tuple[Any, ...]]) -> Iterator[Span]:
        for trace_id, span_id, parent_id, service, name, kind, start, end, failed, message, attributes, linked in rows:
            yield Span(
                key=SpanKey(trace_id, span_id),
                parent_id=parent_id,
                service=service,
                name=name,
                kind=kind,
                start_ns=start,
                end_ns=end,
                failed=bool(failed),
                message=message,
                attributes=json.loads(attributes),
                links=self._links(trace_id, span_id) if linked else (),
            )

    def _links(self, trace_id: bytes, span_id: bytes) -> tuple[SpanKey, ...]:
        rows = self._query(
            "SELECT to_trace_id, to_span_id FROM links WHERE trace_id = ? AND span_id = ?", trace_id, span_id
        )
        return tuple(SpanKey(row[0], row[1]) for row in rows)

    def _query(self, query: str, *arguments: object) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, timeout=10.0)) as connection:
            return connection.execute(query, arguments).fetchall()
