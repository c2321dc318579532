"""Entries: the immutable lines of an account, each balanced in itself and chained to the one before by hash."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from functools import lru_cache
from typing import Final
from uuid import UUID

import msgspec

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_FORMAT: Final = "bulksms-ledger-entry-1"
_encode: Final = msgspec.json.Encoder().encode


class EntryKind(IntEnum):
    """What an entry records; the numbers are those of the contract and of the database."""

    GRANT = 1
    ADJUST = 2
    RESERVE = 3
    CAPTURE = 4
    RELEASE = 5
    CLOSE = 6
    REFUND = 7
    EXPIRE = 8


class Evidence(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What was sent for captured credits."""

    batch_id: str = ""
    epoch: int = 0
    bulk_id: str = ""
    accepted_count: int = 0
    parts: int = 0


class Postings(msgspec.Struct, frozen=True, gc=False):
    """What an entry takes from and puts into each bucket; the four sum to zero."""

    granted: int  # the source of all credits: what comes in leaves here
    available: int
    reserved: int
    captured: int


class Entry(msgspec.Struct, frozen=True, gc=False):
    """One line of an account's history, with the account's figures after it."""

    tenant_id: str
    version: int
    kind: EntryKind
    units: int
    available_after: int
    reserved_after: int
    captured_after: int
    reservation_id: UUID | None
    campaign_id: str
    request_id: UUID
    reason: str
    source_ref: str
    expires_at: datetime | None  # of a granted lot
    evidence: Evidence | None
    created_at: datetime
    hash: bytes

    @property
    def brings_lot(self) -> bool:
        """True when its units are a lot of their own: grants, and adjustments upwards."""
        return self.kind is EntryKind.GRANT or (self.kind is EntryKind.ADJUST and self.units > 0)

    @property
    def postings(self) -> Postings:
        """The entry's postings, from its kind and units."""
        return postings(self.kind, self.units)


def postings(kind: EntryKind, units: int) -> Postings:
    """What so many units of a kind of entry move."""
    granted, available, reserved, captured = MOVES[kind]
    return Postings(granted * units, available * units, reserved * units, captured * units)


def chain_hash(previous: bytes, entry: Entry) -> bytes:
    """SHA-256 over the hash of the entry before (32 zero bytes at the first) and this one's canonical bytes."""
    return hashlib.sha256(previous + canonical_bytes(entry)).digest()


def canonical_bytes(entry: Entry) -> bytes:
    """The entry as a canonical JSON array (RFC 8785): strings, whole numbers and nulls, in the contract's field order.

    Times are microseconds since 1970 in UTC; what is unset is null. A statement holds all of it, so that the chain
    can be checked without the ledger.
    """
    evidence = entry.evidence
    return _encode(
        (
            _FORMAT,
            entry.version,
            entry.tenant_id,
            entry.kind,
            entry.units,
            entry.available_after,
            entry.reserved_after,
            entry.captured_after,
            entry.reservation_id,  # UUIDs are written in their canonical form
            entry.campaign_id,
            entry.request_id,
            entry.reason,
            None
            if evidence is None
            else (evidence.batch_id, evidence.epoch, evidence.bulk_id, evidence.accepted_count, evidence.parts),
            microseconds(entry.created_at),
            entry.source_ref,
            None if entry.expires_at is None else microseconds(entry.expires_at),
        )
    )


@lru_cache(maxsize=256)  # a group's entries are of one instant, or few
def microseconds(at: datetime) -> int:
    """Since 1970 in UTC."""
    return (at - _EPOCH) // _MICROSECOND


# What one unit of each kind moves: granted, available, reserved, captured. A tuple, as every entry asks it twice and an
# enum's hash is a call of Python code.
MOVES: Final = (
    (0, 0, 0, 0),
    (-1, 1, 0, 0),  # GRANT
    (-1, 1, 0, 0),  # ADJUST
    (0, -1, 1, 0),  # RESERVE
    (0, 0, -1, 1),  # CAPTURE
    (0, 1, -1, 0),  # RELEASE
    (0, 1, -1, 0),  # CLOSE
    (0, 1, 0, -1),  # REFUND
    (1, -1, 0, 0),  # EXPIRE
)
