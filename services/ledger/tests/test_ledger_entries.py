"""Entries: balanced in themselves, and hashed over bytes that anybody can write again."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec
import pytest

from bulksms_ledger.domain.accounts import GENESIS_HASH
from bulksms_ledger.domain.entries import Entry, EntryKind, Evidence, canonical_bytes, chain_hash, postings

ENTRY = Entry(
    tenant_id="acme",
    version=7,
    kind=EntryKind.CAPTURE,
    units=5,
    available_after=20,
    reserved_after=75,
    captured_after=5,
    reservation_id=UUID("0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b"),
    campaign_id="campaign-1",
    request_id=UUID("ABCDEF00-0000-4000-8000-000000000001"),
    reason='Ελλάδα "quoted" \\ back',
    source_ref="",
    expires_at=None,
    evidence=Evidence("batch-1", 2, "bulk-1", 5, 6),
    created_at=datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC),
    hash=b"",
)


def test_the_canonical_bytes_are_a_json_array_that_other_encoders_write_the_same() -> None:
    values = [
        "bulksms-ledger-entry-1", 7, "acme", 4, 5, 20, 75, 5, "0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b", "campaign-1",
        "abcdef00-0000-4000-8000-000000000001", 'Ελλάδα "quoted" \\ back', ["batch-1", 2, "bulk-1", 5, 6],
        1767268800123456, "", None,
    ]  # fmt: skip
    expected = json.dumps(values, ensure_ascii=False, separators=(",", ":")).encode()
    assert canonical_bytes(ENTRY) == expected
    assert chain_hash(GENESIS_HASH, ENTRY) == hashlib.sha256(bytes(32) + expected).digest()


def test_every_field_is_part_of_the_hash() -> None:
    changed = {
        "tenant_id": "acmf",
        "version": 8,
        "kind": EntryKind.RELEASE,
        "units": 6,
        "available_after": 21,
        "reserved_after": 76,
        "captured_after": 6,
        "reservation_id": None,
        "campaign_id": "",
        "request_id": UUID(int=1),
        "reason": "",
        "source_ref": "x",
        "expires_at": ENTRY.created_at,
        "evidence": None,
        "created_at": ENTRY.created_at + timedelta(microseconds=1),
    }
    assert changed.keys() | {"hash"} == set(Entry.__struct_fields__)
    hashes = {
        chain_hash(GENESIS_HASH, msgspec.structs.replace(ENTRY, **{name: value})) for name, value in changed.items()
    }
    assert len(hashes | {chain_hash(GENESIS_HASH, ENTRY)}) == len(changed) + 1
    assert chain_hash(bytes(31) + b"\x01", ENTRY) != chain_hash(GENESIS_HASH, ENTRY)


@pytest.mark.parametrize("kind", EntryKind)
def test_the_postings_of_every_kind_sum_to_zero(kind: EntryKind) -> None:
    moved = postings(kind, 7)
    assert moved.granted + moved.available + moved.reserved + moved.captured == 0
