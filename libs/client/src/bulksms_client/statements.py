"""Statements: an account's entries as a file that proves itself, without the ledger and without a network.

A statement is UTF-8 text, a JSON document per line: a heading with the tenant, then every entry from the first, then
an end with the number of entries, the balance and the hash of the last entry. Each line is written in one way only
(field order, no spaces, times to the microsecond in UTC), so that the verifier can demand every byte of it. Each
entry's `hash` is the SHA-256 of the hash before it and the entry's content, as the contract says at `Entry.hash`;
`postings` are what the entry moved: granted, available, reserved, captured.

A statement that holds is a history that was not changed after it was written, down to the bit. Whether it is the
ledger's own is shown by its last hash: compare it with one that was stored or read elsewhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from google.protobuf.timestamp_pb2 import Timestamp

from bulksms.ledger.v1 import ledger_pb2 as pb

__all__ = [
    "END",
    "ENTRY",
    "FORMAT",
    "GENESIS",
    "HEADING",
    "LINE_BYTES_MAX",
    "MOVES",
    "Malformed",
    "line_text",
    "parse_line",
    "statement_lines",
]

FORMAT: Final = "bulksms-ledger-statement-1"
# An entry has at most 500 characters of reason, 200 of source_ref, some ids and numbers.
LINE_BYTES_MAX: Final = 16 * 1024

GENESIS: Final = "00" * 32
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_INSTANT: Final = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z", re.ASCII)
_HASH: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NUMBER_MAX: Final = 2**63

# What one unit of each kind of entry moves: granted, available, reserved, captured.
MOVES: Final = {
    "GRANT": (-1, 1, 0, 0),
    "ADJUST": (-1, 1, 0, 0),
    "RESERVE": (0, -1, 1, 0),
    "CAPTURE": (0, 0, -1, 1),
    "RELEASE": (0, 1, -1, 0),
    "CLOSE": (0, 1, -1, 0),
    "REFUND": (0, 1, 0, -1),
    "EXPIRE": (1, -1, 0, 0),
}
_KINDS: Final = {pb.EntryKind.Value(f"ENTRY_KIND_{name}"): name for name in MOVES}
_BUCKETS: Final = ("granted", "available", "reserved", "captured")
_EVIDENCE: Final = {"batch_id": str, "epoch": int, "bulk_id": str, "accepted_count": int, "parts": int}
# The types of every kind of line, in the order its fields are written.
HEADING: Final[dict[str, type]] = {"statement": str, "tenant_id": str}
ENTRY: Final[dict[str, type]] = {
    "version": int,
    "tenant_id": str,
    "kind": str,
    "units": int,
    "postings": dict,
    "available_after": int,
    "reserved_after": int,
    "captured_after": int,
    "reservation_id": str,
    "campaign_id": str,
    "request_id": str,
    "reason": str,
    "evidence": dict,
    "created_at": str,
    "source_ref": str,
    "expires_at": str,
    "hash": str,
}
_NULLABLE: Final = frozenset({"reservation_id", "evidence", "expires_at"})
END: Final[dict[str, type]] = {"entries": int, "available": int, "reserved": int, "captured": int, "hash": str}


def statement_lines(tenant_id: str, entries: Iterable[pb.Entry]) -> Iterator[str]:
    """The lines of a statement, without line ends, as the entries come; they must be all, from the first on."""
    count, last = 0, None
    yield _render({"statement": FORMAT, "tenant_id": tenant_id})
    for entry in entries:
        count, last = count + 1, entry
        yield _render(_document(entry))
    balance = (last.available_after, last.reserved_after, last.captured_after) if last else (0, 0, 0)
    yield _render(dict(zip(END, (count, *balance, last.hash.hex() if last else GENESIS), strict=True)))


class Malformed(Exception):  # noqa: N818 - what the line is
    """A line that is not as a statement is written."""


def _document(entry: pb.Entry) -> dict[str, Any]:
    kind, evidence = _KINDS[entry.kind], None
    if entry.HasField("evidence"):
        evidence = {name: getattr(entry.evidence, name) for name in _EVIDENCE}
    return {
        "version": entry.version,
        "tenant_id": entry.tenant_id,
        "kind": kind,
        "units": entry.units,
        "postings": dict(zip(_BUCKETS, (move * entry.units for move in MOVES[kind]), strict=True)),
        "available_after": entry.available_after,
        "reserved_after": entry.reserved_after,
        "captured_after": entry.captured_after,
        "reservation_id": entry.reservation_id or None,
        "campaign_id": entry.campaign_id,
        "request_id": entry.request_id,
        "reason": entry.reason,
        "evidence": evidence,
        "created_at": _instant(entry.created_at),
        "source_ref": entry.source_ref,
        "expires_at": _instant(entry.expires_at) if entry.HasField("expires_at") else None,
        "hash": entry.hash.hex(),
    }


def _instant(at: Timestamp) -> str:
    moment = _EPOCH + timedelta(seconds=at.seconds, microseconds=at.nanos // 1000)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _render(document: dict[str, Any]) -> str:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def line_text(line: bytes) -> str:
    """The line without its end."""
    if not line.endswith(b"\n"):
        raise Malformed(f"it has no line end, or is longer than {LINE_BYTES_MAX} bytes")
    try:
        return line[:-1].decode()
    except UnicodeDecodeError:
        raise Malformed("it is not UTF-8 text") from None


def parse_line(text: str, types: Mapping[str, type]) -> dict[str, Any]:
    """The line's fields, if it is written exactly as a statement's lines are."""
    try:
        document = json.loads(text)
        if not isinstance(document, dict) or _render(document) != text:
            raise Malformed("it is not written as statements are: fields, spaces or escapes differ")
    except (ValueError, RecursionError):
        raise Malformed("it is not JSON") from None
    _check(document, types)
    if "postings" in types:
        _check(document["postings"], dict.fromkeys(_BUCKETS, int))
        _check_instants(document)
    if document.get("evidence") is not None:
        _check(document["evidence"], _EVIDENCE)
    if "hash" in types and not _HASH.fullmatch(document["hash"]):
        raise Malformed("its hash is not 64 hexadecimal digits")
    return document


def _check(document: dict[str, Any], types: Mapping[str, type]) -> None:
    if tuple(document) != tuple(types):
        raise Malformed(f"its fields are not {', '.join(types)}")
    for name, value in document.items():
        if value is None and name in _NULLABLE:
            continue
        if type(value) is not types[name] or (isinstance(value, int) and abs(value) >= _NUMBER_MAX):
            raise Malformed(f"{name} is not of its type")


def _check_instants(document: dict[str, Any]) -> None:
    for name in ("created_at", "expires_at"):
        if document[name] is not None and (
            not _INSTANT.fullmatch(document[name]) or _instant_or_none(document[name]) is None
        ):
            raise Malformed(f"{name} is not an instant such as 2026-12-24T18:00:00.000000Z")


def _instant_or_none(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
