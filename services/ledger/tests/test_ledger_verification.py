"""VerifyAccount: whatever is changed behind the ledger's back is found."""

from __future__ import annotations

from datetime import timedelta
from random import Random
from typing import Any

import asyncpg
import pytest

from bulksms.ledger.v1 import ledger_pb2 as pb
from servicekit.clock import ManualClock

from .attempts_support import Sender
from .ledger_support import Tenant

ENTRY_COLUMNS = {
    "kind": "kind % 8 + 1",
    "units": "units + 1",
    "granted_posting": "granted_posting + 1, available_posting = available_posting - 1",
    "available_after": "available_after + 1",
    "reserved_after": "reserved_after + 1",
    "captured_after": "captured_after + 1",
    "reservation_id": "gen_random_uuid()",
    "campaign_id": "campaign_id || 'x'",
    "request_id": "gen_random_uuid()",
    "reason": "reason || ' '",
    "source_ref": "source_ref || 'x'",
    "expires_at": "coalesce(expires_at, now()) + interval '1 microsecond'",
    "evidence": """'{"batch_id": "other"}'""",
    "created_at": "created_at + interval '1 microsecond'",
}


async def fill(tenant: Tenant, clock: ManualClock) -> None:
    """An account with entries of every kind."""
    await tenant.open(500)
    expiring = pb.GrantCreditsRequest(
        request_id=tenant.ids(), tenant_id="acme", units=400, source_ref="gift", reason="hello"
    )
    expiring.expires_at.FromDatetime(clock.now() + timedelta(minutes=70))
    await tenant.stub.GrantCredits(expiring)
    for number in range(4):
        reservation_id = (await tenant.reserve(50, campaign_id=f"campaign-{number}")).reservation.reservation_id
        for units in range(1, 5):
            await tenant.capture(reservation_id, units)
        await tenant.release(reservation_id, 5)
        await tenant.refund(reservation_id, 2)
        sender = Sender(tenant, reservation_id)
        accepted, waiting = tenant.ids(), tenant.ids()
        for attempt, positions in ((accepted, (0, 2)), (waiting, (3, 4))):
            asked = sender.authorize(attempt, [positions], campaign_id=f"campaign-{number}", enqueue_number=0)
            assert await asked == ""
        assert await sender.capture(accepted, 3) == ""
        if number % 2:
            await tenant.close(reservation_id, 13)
        clock.advance(timedelta(minutes=20))
    await tenant.stub.AdjustCredits(
        pb.AdjustCreditsRequest(request_id=tenant.ids(), tenant_id="acme", units=-7, reason="counted anew")
    )


async def behind_the_ledgers_back(url: str, statement: str, *arguments: Any) -> None:
    """Change something as somebody would who can switch the database's own rules off."""
    connection = await asyncpg.connect(url)
    try:
        for table in ("entries", "accounts", "operations"):
            await connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        await connection.execute(statement, *arguments)
    finally:
        await connection.close()


async def test_an_untouched_account_is_consistent(tenant: Tenant, clock: ManualClock) -> None:
    await fill(tenant, clock)
    verified = await tenant.verify()
    assert (verified.consistent, list(verified.differences)) == (True, [])
    kinds = {entry.kind for entry in await tenant.entries()}
    assert kinds == set(pb.EntryKind.values()) - {0}
    balance = await tenant.balance()
    assert verified.recomputed == balance


async def test_any_change_of_any_field_of_an_entry_is_found_where_it_is(
    tenant: Tenant, clock: ManualClock, ledger_url: str
) -> None:
    await fill(tenant, clock)
    versions = [entry.version for entry in await tenant.entries()]
    random = Random(7)
    for column, change in ENTRY_COLUMNS.items():
        version = random.choice(versions)
        await behind_the_ledgers_back(ledger_url, "CREATE TABLE kept AS SELECT * FROM entries")
        await behind_the_ledgers_back(ledger_url, f"UPDATE entries SET {column} = {change} WHERE version = $1", version)
        verified = await tenant.verify()
        assert not verified.consistent, column
        assert any(f"entry {version}" in difference for difference in verified.differences), column
        await behind_the_ledgers_back(ledger_url, "DELETE FROM entries")
        await behind_the_ledgers_back(ledger_url, "INSERT INTO entries SELECT * FROM kept")
        await behind_the_ledgers_back(ledger_url, "DROP TABLE kept")
    assert (await tenant.verify()).consistent


async def test_any_flipped_byte_of_evidence_is_found(tenant: Tenant, ledger_url: str) -> None:
    await tenant.open(10)
    reservation_id = (await tenant.reserve(10)).reservation.reservation_id
    await tenant.capture(reservation_id, 1)
    evidence = '{"batch_id":"batch-1","epoch":1,"bulk_id":"bulk-1","accepted_count":1,"parts":1}'
    change = "UPDATE entries SET evidence = $1 WHERE version = 3"
    for position, letter in enumerate(evidence):
        changed = evidence[:position] + chr(ord(letter) ^ 1) + evidence[position + 1 :]
        await behind_the_ledgers_back(ledger_url, change, changed)
        assert list((await tenant.verify()).differences) == [
            "entry 3: its hash is not that of its content and the entry before"
        ], changed
    await behind_the_ledgers_back(ledger_url, change, evidence)
    assert (await tenant.verify()).consistent


async def test_any_flipped_byte_of_a_hash_is_found(tenant: Tenant, ledger_url: str) -> None:
    await tenant.open(10)
    await tenant.grant(1)
    for position in range(32):
        flip = f"UPDATE entries SET hash = set_byte(hash, {position}, get_byte(hash, {position}) # 1) WHERE version = 1"
        await behind_the_ledgers_back(ledger_url, flip)
        assert list((await tenant.verify()).differences) == [
            "entry 1: its hash is not that of its content and the entry before",
            "entry 2: its hash is not that of its content and the entry before",
        ]
        await behind_the_ledgers_back(ledger_url, flip)
    assert (await tenant.verify()).consistent


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM entries WHERE version = 5", "entry 5 is missing"),
        ("DELETE FROM entries WHERE version = (SELECT max(version) FROM entries)", "the account stands at entry"),
        ("UPDATE operations SET entry_version = entry_version + 1", "is not on record"),
        ("DELETE FROM operations WHERE content LIKE '%\"Refund\"%'", "is not on record"),
        ("UPDATE accounts SET available = available + 1", "the account has available, reserved, captured"),
        ("UPDATE accounts SET entry_hash = decode(repeat('ab', 32), 'hex')", "or with another hash"),
        ("UPDATE reservations SET units = units + 1, open_units = open_units + 1 WHERE state = 1", "units, open"),
        ("UPDATE reservations SET refunded = 0", "refunded"),
        ("DELETE FROM authorizations; DELETE FROM reservations WHERE state = 2", "is in entries but not stored"),
        ("UPDATE lots SET available = 0", "lot 1 is stored otherwise"),
        ("UPDATE lots SET expires_at = now() WHERE version = 1", "lot 1 is stored otherwise"),
        ("UPDATE reservations SET lot_allocations = '[]'", "allocations"),
        ("UPDATE reservations SET open_units = open_units + 1, authorized = authorized - 1 WHERE state = 1",
         "1 are authorized, its attempts have 2"),
        ("UPDATE authorizations SET authorized = 1, voided = 1 WHERE authorized = 2",
         "2 are authorized, its attempts have 1"),
        ("UPDATE authorizations SET units = 30, captured = 30 WHERE captured = 3",
         "its attempts captured or released more than it did"),
    ],
)  # fmt: skip
async def test_whatever_differs_from_the_entries_is_found(
    tenant: Tenant, clock: ManualClock, ledger_url: str, statement: str, said: str
) -> None:
    await fill(tenant, clock)
    await behind_the_ledgers_back(ledger_url, statement)
    verified = await tenant.verify()
    assert not verified.consistent
    assert any(said in difference for difference in verified.differences), list(verified.differences)


async def test_not_more_than_100_differences_are_listed(tenant: Tenant, ledger_url: str) -> None:
    await tenant.open()
    for _ in range(60):
        await tenant.grant(1)
    await behind_the_ledgers_back(ledger_url, "UPDATE entries SET units = 2")
    verified = await tenant.verify()
    assert (verified.consistent, len(verified.differences), verified.entries) == (False, 100, 60)
