"""The tables of the spool and how its file is opened."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from servicekit.settings import SettingsError

__all__ = ["SCHEMA_VERSION", "SpoolFileError", "open_spool_file"]

SCHEMA_VERSION = 1

# An entry is one JSON text, so that rows cross between Python and SQLite in bulk, inside a single step of a single
# statement (json_each in, json_group_array out). SQLite's module gives the interpreter lock up at each step and, while
# the event loop is busy, waits up to 5 ms to get it back: a row per step would make a thousand rows last seconds.
_SCHEMA = (
    # Received, nobody has said anything to it yet. AUTOINCREMENT: the forwarder reads past the ids it has in hand, so
    # no id may come again after its row is gone.
    "CREATE TABLE fresh (id INTEGER PRIMARY KEY AUTOINCREMENT, entry TEXT NOT NULL)",
    # Forwarded and not taken; offered again at due_at (microseconds since 1970).
    "CREATE TABLE waiting (id INTEGER PRIMARY KEY, due_at INTEGER NOT NULL, entry TEXT NOT NULL)",
    # For take_due: the waiting entries in the order they are due.
    "CREATE INDEX waiting_due_at ON waiting (due_at)",
    # Given up, kept for people. Exactly one of entry (a report) and raw (the beginning of what was none) is set.
    """CREATE TABLE quarantine (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        quarantined_at INTEGER NOT NULL,
        reason TEXT NOT NULL,
        entry TEXT,
        raw TEXT,
        CHECK ((entry IS NULL) <> (raw IS NULL))
    )""",
    # Figures that outlive the rows they count: quarantine_dropped.
    "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)


class SpoolFileError(SettingsError):
    """The spool's file cannot be used; the message says why and what to do."""


def open_spool_file(path: Path, *, create: bool = True) -> sqlite3.Connection:
    """Open the spool, every commit of which survives a power cut; usable from one other thread at a time."""
    if not create and not path.exists():
        raise SpoolFileError(f"there is no spool at {path}: set SPOOL_PATH to the file the gateway uses")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Reports are nobody else's business; SQLite gives its -wal and -shm files the same mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise SpoolFileError(
            f"the spool {path} cannot be opened ({error}): SPOOL_PATH must name a file in a writable folder"
        ) from error
    try:
        _prepare(connection)
    except sqlite3.DatabaseError as error:
        connection.close()
        raise SpoolFileError(
            f"the spool {path} cannot be read ({error}): when it is damaged move it away, keep it, and start again"
        ) from error
    except SpoolFileError:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # works only before the first table
    # Answered 200 means on disk: FULL syncs the log at every commit.
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    connection.execute("PRAGMA temp_store = MEMORY")
    if version == 0:
        connection.execute("BEGIN IMMEDIATE")
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version == 0:
            for statement in _SCHEMA:
                connection.execute(statement)
            version = SCHEMA_VERSION
        connection.execute("COMMIT")
    if version != SCHEMA_VERSION:
        raise SpoolFileError(
            f"the spool has format {version}, this version reads {SCHEMA_VERSION}: start the version that wrote it, "
            "let it forward everything, then update"
        )
