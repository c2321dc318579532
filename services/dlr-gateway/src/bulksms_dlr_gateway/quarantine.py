"""What operators do with reports that were given up: look at them, and have them forwarded again."""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from bulksms_dlr_gateway.domain.entries import Entry
from bulksms_dlr_gateway.domain.payload import Payload, TooManyReportsError, UnreadableBodyError, parse
from bulksms_dlr_gateway.domain.reports import moment
from bulksms_dlr_gateway.storage import statements
from bulksms_dlr_gateway.storage.statements import QuarantineRow
from bulksms_dlr_gateway.storage.tables import SpoolFileError, open_spool_file
from servicekit.privacy import mask_numbers

__all__ = ["main", "replay"]

_PAGE = 500


def main(arguments: Sequence[str]) -> int:
    """Run `quarantine list | replay`; may run beside the gateway. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bulksms_dlr_gateway quarantine", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("list", "print what is quarantined, one line each; long numbers are masked"),
        ("replay", "offer it to campaign again, as if it had just been received"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("--reason", help="only what was quarantined for this reason, e.g. UNKNOWN_MESSAGE")
    chosen = parser.parse_args(arguments)
    try:
        connection = open_spool_file(_spool_path(), create=False)
    except SpoolFileError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    try:
        if chosen.command == "list":
            _list(connection, chosen.reason)
        else:
            replayed, left = replay(connection, chosen.reason)
            sys.stdout.write(f"{replayed} reports will be forwarded again, {left} stay: they are no reports\n")
    finally:
        connection.close()
    return 0


def replay(connection: sqlite3.Connection, reason: str | None = None) -> tuple[int, int]:
    """Make quarantined reports fresh again, page by page; (reports replayed, elements that still cannot be read)."""
    replayed = left = 0
    for page in _pages(connection):
        chosen = [row for row in page if reason in {None, row.reason}]
        readable = [(row.id, entries) for row in chosen if (entries := _entries(row))]
        fresh = [entry for _, entries in readable for entry in entries]
        connection.execute("BEGIN IMMEDIATE")
        statements.append_fresh(connection, fresh)
        statements.delete_quarantined(connection, [row_id for row_id, _ in readable])
        connection.execute("COMMIT")
        replayed += len(fresh)
        left += len(chosen) - len(readable)
    return replayed, left


def _list(connection: sqlite3.Connection, reason: str | None) -> None:
    for page in _pages(connection):
        for row in page:
            if reason in {None, row.reason}:
                sys.stdout.write(f"{row.id}\t{moment(row.quarantined_at).isoformat()}\t{row.reason}\t{_shown(row)}\n")


def _pages(connection: sqlite3.Connection) -> Iterator[list[QuarantineRow]]:
    after = 0
    while page := statements.take_quarantined(connection, after, _PAGE):
        yield page
        after = page[-1].id


def _entries(row: QuarantineRow) -> list[Entry]:
    if row.entry is not None:
        return [Entry(row.entry.report, row.entry.received_at, row.entry.traceparent)]
    try:
        payload = parse((row.raw or "").encode())
    except (UnreadableBodyError, TooManyReportsError):
        payload = Payload((), ())
    # Part of a body would be forwarded and the rest forgotten: such a row stays.
    return [] if payload.rejected else [Entry(report, row.quarantined_at) for report in payload.reports]


def _shown(row: QuarantineRow) -> str:
    if row.entry is None:
        return mask_numbers(repr((row.raw or "")[:200]))
    report = row.entry.report
    received = moment(row.entry.received_at).isoformat()
    return f"{report.provider_message_id}\t{report.raw_status}\t{report.error_code or '-'}\treceived {received}"


def _spool_path() -> Path:
    path = Path(os.environ.get("SPOOL_PATH", ""))
    return path / "spool.sqlite3" if path.is_dir() else path
