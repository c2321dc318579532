"""Packing: entries and operations as rows of PostgreSQL's binary COPY.

The driver would ask a codec for each of an entry's twenty values, which had been the largest part of a capture; packed
in one piece a row takes a quarter of that. The format: https://www.postgresql.org/docs/current/sql-copy.html.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final
from uuid import UUID

import msgspec

from bulksms_ledger.entries import MOVES, Entry, microseconds
from bulksms_ledger.operations import Answer, Recorded, encode_content, encode_outcome

# Those of fixed length first, so that one pattern packs them all.
ENTRY_COLUMNS: Final = (
    "tenant_id", "version", "kind", "units", "granted_posting", "available_posting", "reserved_posting",
    "captured_posting", "available_after", "reserved_after", "captured_after", "request_id", "created_at", "hash",
    "reservation_id", "campaign_id", "reason", "source_ref", "expires_at", "evidence",
)  # fmt: skip
OPERATION_COLUMNS: Final = (
    "request_id", "tenant_id", "created_at", "told_by", "captured", "released", "refunded", "content", "outcome",
)  # fmt: skip

_HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # signature, no flags, no extension
_TRAILER: Final = b"\xff\xff"
_NULL: Final = b"\xff\xff\xff\xff"
_NO_WORDS: Final = bytes(8) + _NULL  # neither reason nor source_ref, and no end
_EPOCH: Final = microseconds(datetime(2000, 1, 1, tzinfo=UTC))
_LENGTH: Final = struct.Struct(">i")
_INSTANT: Final = struct.Struct(">iq")


class Packed:
    """What a group of one tenant writes into the two tables, packed piece by piece."""

    def __init__(self, tenant_id: str, now: datetime) -> None:
        self._tenant_id = tenant_id
        self._now = now
        self._entries: list[bytes] = []
        self._operations: list[bytes] = []

    def add(self, entries: Sequence[Entry], recorded: Sequence[Recorded]) -> None:
        """Some more of them, in the order they were decided."""
        self._entries += _entry_rows(self._tenant_id, entries)
        self._operations += _operation_rows(self._tenant_id, recorded, self._now)

    @property
    def entries(self) -> memoryview:
        """The input of a COPY of ENTRY_COLUMNS."""
        return _copy(self._entries)

    @property
    def operations(self) -> memoryview:
        """The input of a COPY of OPERATION_COLUMNS, in id order.

        Two accounts' groups that reuse each other's ids then wait for one another in one direction only.
        """
        return _copy(sorted(self._operations))  # rows begin alike, up to their ids


def _copy(rows: Iterable[bytes]) -> memoryview:
    return memoryview(b"".join((_HEADER, *rows, _TRAILER)))  # the driver takes bytes for a file's name


def _entry_rows(tenant_id: str, entries: Sequence[Entry]) -> list[bytes]:
    tenant = tenant_id.encode()
    tenant_length = len(tenant)
    fixed = _fixed_of_entries(tenant_length).pack
    columns = len(ENTRY_COLUMNS)
    rows: list[bytes] = []
    reservation_id: UUID | None = None
    reservation = _NULL + _text("")
    for entry in entries:
        kind, units = entry.kind, entry.units
        granted, available, reserved, captured = MOVES[kind]
        evidence = entry.evidence
        if entry.reservation_id is not reservation_id:  # mostly it is that of the entry before, and so is its campaign
            reservation_id = entry.reservation_id
            reservation = _uuid(reservation_id) + _text(entry.campaign_id)
        # Every value with its length before it, in bytes.
        rows += (
            fixed(
                columns,
                tenant_length, tenant,
                8, entry.version,
                2, kind,
                8, units,
                8, granted * units,
                8, available * units,
                8, reserved * units,
                8, captured * units,
                8, entry.available_after,
                8, entry.reserved_after,
                8, entry.captured_after,
                16, entry.request_id.bytes,
                8, _instant(entry.created_at),
                32, entry.hash,
            ),
            reservation,
            _words(entry) if entry.reason or entry.source_ref or entry.expires_at else _NO_WORDS,
            _NULL if evidence is None else _bytes(_encode(evidence)),
        )  # fmt: skip
    return rows


def _operation_rows(tenant_id: str, recorded: Sequence[Recorded], now: datetime) -> list[bytes]:
    tenant = tenant_id.encode()
    tenant_length = len(tenant)
    capture = _capture_operation(tenant_length).pack
    columns = len(OPERATION_COLUMNS)
    instant = _instant(now)
    rows: list[bytes] = []
    for one in recorded:
        operation, outcome = one.operation, one.outcome
        if one.told_by and isinstance(outcome, Answer) and (reservation := outcome.reservation) is not None:
            row = capture(
                columns,
                16, operation.request_id.bytes,
                tenant_length, tenant,
                8, instant,
                8, one.told_by,
                8, reservation.captured,
                8, reservation.released,
                8, reservation.refunded,
                -1, -1,
            )  # fmt: skip
        else:
            row = b"".join(
                (
                    struct.pack(">hi16s", columns, 16, operation.request_id.bytes),
                    _bytes(tenant),
                    _INSTANT.pack(8, instant),
                    4 * _NULL,
                    _text(encode_content(operation)),
                    _text(encode_outcome(outcome)),
                )
            )
        rows.append(row)
    return rows


@lru_cache(maxsize=64)
def _fixed_of_entries(tenant_length: int) -> struct.Struct:
    return struct.Struct(f">hi{tenant_length}siqih{8 * 'iq'}i16siqi32s")


@lru_cache(maxsize=64)
def _capture_operation(tenant_length: int) -> struct.Struct:
    return struct.Struct(f">hi16si{tenant_length}s{5 * 'iq'}ii")


def _instant(at: datetime) -> int:
    return microseconds(at) - _EPOCH


def _words(entry: Entry) -> bytes:
    end = entry.expires_at
    return _text(entry.reason) + _text(entry.source_ref) + (_NULL if end is None else _INSTANT.pack(8, _instant(end)))


def _uuid(value: UUID | None) -> bytes:
    return _NULL if value is None else _bytes(value.bytes)


def _text(value: str) -> bytes:
    return _bytes(value.encode()) if value else b"\0\0\0\0"


def _bytes(value: bytes) -> bytes:
    return _LENGTH.pack(len(value)) + value


_encode: Final = msgspec.json.Encoder().encode
