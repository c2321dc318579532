"""Proofs: a statement verified line by line, offline: every byte, every sum, and the chain of hashes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from bulksms.ledger.v1 import ledger_pb2 as pb
from bulksms_client.statements import (
    END,
    ENTRY,
    FORMAT,
    GENESIS,
    HEADING,
    MOVES,
    Malformed,
    line_text,
    parse_line,
)

__all__ = ["DIFFERENCES_MAX", "StatementVerifier"]

DIFFERENCES_MAX: Final = 100
_ENTRY_FORMAT: Final = "bulksms-ledger-entry-1"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(slots=True)
class StatementVerifier:
    """Reads a statement line by line and says what does not hold; `finish` at its end.

    A wrong entry is reported where it is: the chain goes on from the hash that stands there, the balance likewise.
    """

    tenant_id: str = ""
    entries: int = 0
    balance: tuple[int, int, int] = (0, 0, 0)  # available, reserved, captured
    hash: str = GENESIS
    differences: list[str] = field(default_factory=list)
    _line: int = 0
    _last_at: str = ""
    _ended: bool = False

    def read(self, line: bytes) -> None:
        """Take in the next line, with its line end."""
        self._line += 1
        try:
            text = line_text(line)
            if self._line == 1:
                self._read_heading(text)
            elif self._ended:
                self._differ(f"line {self._line}: there is more after the statement's end")
            elif text.startswith('{"entries":'):
                self._read_end(text)
            else:
                self._read_entry(text)
        except Malformed as error:
            self._differ(f"line {self._line}: {error}")

    def finish(self) -> list[str]:
        """All that differs; empty when the statement holds."""
        if not self._ended:
            self._differ("the statement has no end: lines are missing")
        return self.differences

    def _read_heading(self, text: str) -> None:
        heading = parse_line(text, HEADING)
        if heading["statement"] != FORMAT:
            raise Malformed(f"the format must be {FORMAT!r}")
        self.tenant_id = heading["tenant_id"]

    def _read_entry(self, text: str) -> None:
        self.entries += 1
        entry = parse_line(text, ENTRY)
        version, kind, name = entry["version"], entry["kind"], f"entry {entry['version']}"
        if version != self.entries:
            self._differ(f"line {self._line}: {name} where entry {self.entries} is due")
            self.entries = version
        if entry["tenant_id"] != self.tenant_id:
            self._differ(f"{name}: it belongs to another tenant than the statement")
        if kind not in MOVES:
            raise Malformed(f"{name}: its kind is not known")
        if entry["created_at"] < self._last_at:
            self._differ(f"{name}: it is older than the entry before")
        moved = tuple(move * entry["units"] for move in MOVES[kind])
        if tuple(entry["postings"].values()) != moved:
            self._differ(f"{name}: its postings are not those of its kind and units")
        after = (entry["available_after"], entry["reserved_after"], entry["captured_after"])
        if after != tuple(was + move for was, move in zip(self.balance, moved[1:], strict=True)):
            self._differ(f"{name}: its balances do not follow from those of the entry before")
        if _chain_hash(self.hash, entry) != entry["hash"]:
            self._differ(f"{name}: its hash is not that of its content and the entry before")
        self.balance, self.hash, self._last_at = after, entry["hash"], entry["created_at"]

    def _read_end(self, text: str) -> None:
        self._ended = True
        end = parse_line(text, END)
        if tuple(end.values()) != (self.entries, *self.balance, self.hash):
            raise Malformed("the end names another number of entries, balance or hash than the entries lead to")

    def _differ(self, sentence: str) -> None:
        if len(self.differences) < DIFFERENCES_MAX:
            self.differences.append(sentence)


def _microseconds(text: str | None) -> int | None:
    return None if text is None else (datetime.fromisoformat(text) - _EPOCH) // _MICROSECOND


def _chain_hash(previous: str, entry: dict[str, Any]) -> str:
    """As the contract defines it at `Entry.hash`."""
    evidence = entry["evidence"]
    content = [
        _ENTRY_FORMAT,
        entry["version"],
        entry["tenant_id"],
        pb.EntryKind.Value(f"ENTRY_KIND_{entry['kind']}"),
        entry["units"],
        entry["available_after"],
        entry["reserved_after"],
        entry["captured_after"],
        entry["reservation_id"],
        entry["campaign_id"],
        entry["request_id"],
        entry["reason"],
        None if evidence is None else list(evidence.values()),
        _microseconds(entry["created_at"]),
        entry["source_ref"],
        _microseconds(entry["expires_at"]),
    ]
    canonical = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return hashlib.sha256(bytes.fromhex(previous) + canonical).hexdigest()
