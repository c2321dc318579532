"""The statements on the spool's tables. Each moves any number of rows in one step; see tables.py for why."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from bulksms_dlr_gateway.domain.entries import Entry, SpooledEntry, SpoolSizes

__all__ = [
    "QuarantineRow",
    "append_fresh",
    "append_waiting",
    "delete_fresh",
    "delete_quarantined",
    "delete_waiting",
    "drop_old_quarantine",
    "measure",
    "next_due",
    "oldest_received_at",
    "quarantine_entries",
    "quarantine_raw",
    "release_space",
    "take_due",
    "take_fresh",
    "take_quarantined",
    "used_bytes",
]


class QuarantineRow(msgspec.Struct, frozen=True, array_like=True):
    """What was given up: a report (`entry`), or the beginning of what was none (`raw`)."""

    id: int
    quarantined_at: int
    reason: str
    entry: Entry | None
    raw: str | None


_encoder = msgspec.json.Encoder()
_spooled_decoder = msgspec.json.Decoder(list[SpooledEntry])
_quarantine_decoder = msgspec.json.Decoder(list[QuarantineRow])


def append_fresh(connection: sqlite3.Connection, entries: Sequence[Entry]) -> None:
    """Add what has just been received."""
    connection.execute("INSERT INTO fresh (entry) SELECT value FROM json_each(?)", (_json(entries),))


def take_fresh(connection: sqlite3.Connection, after: int, limit: int) -> list[SpooledEntry]:
    """The oldest entries with ids beyond `after`; they stay until deleted."""
    return _spooled(
        connection,
        """SELECT json_group_array(json_array(id, json(entry)))
           FROM (SELECT id, entry FROM fresh WHERE id > ? ORDER BY id LIMIT ?)""",
        (after, limit),
    )


def delete_fresh(connection: sqlite3.Connection, ids: Sequence[int]) -> None:
    """Forget what somebody else has durably."""
    connection.execute("DELETE FROM fresh WHERE id IN (SELECT value FROM json_each(?))", (_json(ids),))


def append_waiting(connection: sqlite3.Connection, entries: Sequence[tuple[int, Entry]]) -> None:
    """Put away until due: pairs of due_at and entry."""
    connection.execute(
        """INSERT INTO waiting (due_at, entry)
           SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?)""",
        (_json(entries),),
    )


def take_due(connection: sqlite3.Connection, now: int, limit: int) -> list[SpooledEntry]:
    """Waiting entries that are due, the longest overdue first; they stay until deleted."""
    return _spooled(
        connection,
        """SELECT json_group_array(json_array(id, json(entry)))
           FROM (SELECT id, entry FROM waiting WHERE due_at <= ? ORDER BY due_at LIMIT ?)""",
        (now, limit),
    )


def next_due(connection: sqlite3.Connection) -> int | None:
    """When the first waiting entry is due; None when none waits."""
    due: int | None = connection.execute("SELECT min(due_at) FROM waiting").fetchone()[0]
    return due


def delete_waiting(connection: sqlite3.Connection, ids: Sequence[int]) -> None:
    """Take out what is done with, or put away again."""
    connection.execute("DELETE FROM waiting WHERE id IN (SELECT value FROM json_each(?))", (_json(ids),))


def quarantine_entries(connection: sqlite3.Connection, now: int, entries: Sequence[tuple[str, Entry]]) -> None:
    """Give up on reports: pairs of reason and entry."""
    connection.execute(
        """INSERT INTO quarantine (quarantined_at, reason, entry)
           SELECT ?, json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?)""",
        (now, _json(entries)),
    )


def quarantine_raw(connection: sqlite3.Connection, now: int, elements: Sequence[tuple[str, str]]) -> None:
    """Keep what was no report: pairs of reason and beginning."""
    connection.execute(
        """INSERT INTO quarantine (quarantined_at, reason, raw)
           SELECT ?, json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?)""",
        (now, _json(elements)),
    )


def take_quarantined(connection: sqlite3.Connection, after: int, limit: int) -> list[QuarantineRow]:
    """The quarantine in order of id, beyond `after`."""
    (rows,) = connection.execute(
        """SELECT json_group_array(json_array(id, quarantined_at, reason, json(entry), raw))
           FROM (SELECT * FROM quarantine WHERE id > ? ORDER BY id LIMIT ?)""",
        (after, limit),
    ).fetchone()
    return _quarantine_decoder.decode(rows)


def delete_quarantined(connection: sqlite3.Connection, ids: Sequence[int]) -> None:
    """Take out what is replayed."""
    connection.execute("DELETE FROM quarantine WHERE id IN (SELECT value FROM json_each(?))", (_json(ids),))


def drop_old_quarantine(connection: sqlite3.Connection, *, before: int, keep: int) -> int:
    """Drop what is older than `before` and what is more than `keep`, oldest first; the dropped are counted for ever."""
    dropped = connection.execute(
        """DELETE FROM quarantine WHERE quarantined_at < ?
           OR id IN (SELECT id FROM quarantine ORDER BY id DESC LIMIT -1 OFFSET ?)""",
        (before, keep),
    ).rowcount
    if dropped:
        connection.execute(
            """INSERT INTO counters VALUES ('quarantine_dropped', ?)
               ON CONFLICT (name) DO UPDATE SET value = value + excluded.value""",
            (dropped,),
        )
    return dropped


def used_bytes(connection: sqlite3.Connection) -> int:
    """Bytes of the file that hold something; what was deleted is used again before the file grows."""
    row = connection.execute(
        """SELECT (page_count - freelist_count) * page_size
           FROM pragma_page_count, pragma_freelist_count, pragma_page_size"""
    ).fetchone()
    return int(row[0])


def measure(connection: sqlite3.Connection) -> SpoolSizes:
    """How much there is. `fresh` is the span of its ids, so an upper bound: a count would read the whole backlog."""
    row = connection.execute(
        """SELECT (SELECT coalesce(max(id) - min(id) + 1, 0) FROM fresh),
                  (SELECT count(*) FROM waiting), (SELECT count(*) FROM quarantine),
                  coalesce((SELECT value FROM counters WHERE name = 'quarantine_dropped'), 0)"""
    ).fetchone()
    fresh, waiting, quarantined, dropped = row
    return SpoolSizes(fresh, waiting, quarantined, dropped, used_bytes(connection))


def oldest_received_at(connection: sqlite3.Connection) -> int | None:
    """When the oldest entry that has not been forwarded was received; None when all have been."""
    row = connection.execute("SELECT json_extract(entry, '$.received_at') FROM fresh ORDER BY id LIMIT 1").fetchone()
    return row[0] if row else None


def release_space(connection: sqlite3.Connection, pages: int) -> None:
    """Give up to that many unused pages back to the file system."""
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    for _ in range(min(free, pages)):
        # Python's module steps this pragma once, which is one page, however many are asked for; executescript steps
        # on, but would commit the transaction it is called in.
        connection.execute("PRAGMA incremental_vacuum(1)")


def _spooled(connection: sqlite3.Connection, statement: str, parameters: tuple[Any, ...]) -> list[SpooledEntry]:
    (rows,) = connection.execute(statement, parameters).fetchone()
    return _spooled_decoder.decode(rows)


def _json(rows: Iterable[object]) -> str:
    return _encoder.encode(rows).decode()
