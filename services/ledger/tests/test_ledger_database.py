"""The database's own rules: it refuses what the ledger would never write, whoever tries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from bulksms_ledger.app import MIGRATIONS
from bulksms_ledger.domain.positions import POSITIONS_IN_RESERVATION
from bulksms_ledger.storage.tables import METADATA
from devstack.eventually import eventually
from devstack.servers import Servers
from servicekit.clock import ManualClock
from servicekit.database import Database
from servicekit.migrations import upgrade_sql

from .attempts_support import Sender, sender_of
from .ledger_support import Ids, Tenant, serving

TABLES = ["accounts", "lots", "reservations", "authorizations", "entries", "operations"]
LEDGER_CONNECTIONS = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'ledger'
"""
POSITIONS = POSITIONS_IN_RESERVATION
HASH = "decode(repeat('ab', 32), 'hex')"


async def fill(url: str) -> None:
    """One account that has had a grant, a reservation, a capture and a refund."""
    async with serving(url, ManualClock()) as stub:
        tenant = await Tenant(stub, Ids()).open(100)
        reservation_id = (await tenant.reserve(50, campaign_id="campaign-1")).reservation.reservation_id
        await tenant.capture(reservation_id, 20)
        await tenant.refund(reservation_id, 5)
        sender = Sender(tenant, reservation_id)
        assert await sender.authorize(tenant.ids(), [(0, 9)], enqueue_number=0) == ""


@pytest.fixture(scope="module")
def filled_url(servers: Servers, migrated_template: Callable[[Path], str]) -> Iterator[str]:
    """A database that every test leaves as it found it."""
    url = servers.clone_database(migrated_template(MIGRATIONS), "ledger_filled").url
    asyncio.run(fill(url))
    yield url
    servers.drop_database("ledger_filled")


@pytest.fixture
async def database(filled_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection in a transaction that is undone at the end."""
    connection = await asyncpg.connect(filled_url)
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield connection
    finally:
        await transaction.rollback()
        await connection.close()


def entry(version: int, *, moved: Sequence[int], after: Sequence[int], at: str = "now()") -> str:
    columns = ", ".join(map(str, [*moved, *after]))
    return f"""
        INSERT INTO entries (tenant_id, version, kind, units, granted_posting, available_posting, reserved_posting,
            captured_posting, available_after, reserved_after, captured_after, campaign_id, request_id, reason,
            source_ref, created_at, hash)
        VALUES ('acme', {version}, 1, 1, {columns}, '', gen_random_uuid(), '', '', {at}, {HASH})
    """


def authorization(tenant_id: str, first: int, last: int) -> str:
    """Another attempt, planted in the reservation that has one of positions 0 to 9."""
    return f"""
        INSERT INTO authorizations (attempt_id, tenant_id, reservation_number, taken, captured_positions, units,
            authorized, captured, released, voided, created_at)
        SELECT gen_random_uuid(), '{tenant_id}', number,
            int8multirange(int8range(number * {POSITIONS} + {first}, number * {POSITIONS} + {last}, '[]')), '{{}}', 1,
            1, 0, 0, 0, now()
        FROM reservations
    """


def account(version: int, available: int, reserved: int = 30, captured: int = 15) -> str:
    return f"""
        UPDATE accounts SET version = {version}, available = {available}, reserved = {reserved},
            captured = {captured}, entry_hash = {HASH} WHERE tenant_id = 'acme'
    """


async def connections_ended(connection: asyncpg.Connection) -> None:
    """What a ledger's connections did is counted when they end."""

    async def ended() -> bool:
        return not await connection.fetchval(LEDGER_CONNECTIONS)

    await eventually(ended, 20)


@pytest.mark.parametrize(
    ("statements", "constraint"),
    [
        (["UPDATE accounts SET available = -1"], "accounts_available_not_negative"),
        (["UPDATE accounts SET reserved = -1"], "accounts_reserved_not_negative"),
        (["UPDATE accounts SET available = available + 1"], "account_is_last_entry"),
        (["UPDATE accounts SET version = version + 1"], "account_is_last_entry"),
        (["UPDATE accounts SET version = 0"], "account_is_last_entry"),
        (["UPDATE reservations SET open_units = open_units - 1"], "reservations_units_add_up"),
        (["UPDATE reservations SET refunded = captured + 1"], "reservations_refunded_within_captured"),
        (["UPDATE reservations SET open_units = -11, captured = 51"], "reservations_parts_not_negative"),
        (["UPDATE reservations SET open_units = 31, authorized = -1"], "reservations_parts_not_negative"),
        (["UPDATE reservations SET snapshot_digest = ''"], "reservations_authorized_for_a_snapshot"),
        (["UPDATE authorizations SET units = 11"], "authorizations_units_add_up"),
        (["UPDATE authorizations SET authorized = 11, voided = -1"], "authorizations_parts_not_negative"),
        (["UPDATE authorizations SET captured_positions = taken"], "authorizations_authorized_for_somebody"),
        (["UPDATE authorizations SET captured_positions = '{[0,1)}'"], "authorizations_captured_is_taken"),
        (["UPDATE authorizations SET taken = '{[0,1)}'"], "authorizations_within_the_reservation"),
        (["UPDATE authorizations SET units = 0, authorized = 0"], "authorizations_tombstone_holds_nothing"),
        ([authorization("acme", 9, 9)], "authorizations_taken_once"),
        ([authorization("acme", 0, 0)], "authorizations_taken_once"),
        ([authorization("other", 20, 20)], "authorizations_of_a_reservation"),
        (["UPDATE reservations SET state = 2, closed_at = now()"], "reservations_closed_has_nothing_open"),
        (["UPDATE lots SET available = units + 1"], "lots_available_within_units"),
        ([account(5, 56), entry(5, moved=(-1, 2, 0, 0), after=(56, 30, 15))], "entries_postings_sum_to_zero"),
        ([account(6, 56), entry(6, moved=(-1, 1, 0, 0), after=(56, 30, 15))], "entries_continue"),
        ([account(5, 57), entry(5, moved=(-1, 1, 0, 0), after=(57, 30, 15))], "entries_continue"),
        ([account(5, 57), entry(5, moved=(-1, 1, 0, 0), after=(56, 30, 15))], "entries_continue"),
        ([entry(5, moved=(-1, 1, 0, 0), after=(56, 30, 15))], "entries_continue"),
        ([account(5, 56), entry(5, moved=(-1, 1, 0, 0), after=(56, 30, 15), at="'2000-01-01'")], "entries_continue"),
        ([account(4, 55), entry(4, moved=(-1, 1, 0, 0), after=(56, 30, 15))], "entries_pkey"),
    ],
)
async def test_what_does_not_add_up_is_refused(
    database: asyncpg.Connection, statements: list[str], constraint: str
) -> None:
    before = await database.fetchrow("SELECT available, reserved, captured, version FROM accounts")
    assert tuple(before) == (55, 30, 15, 4)
    # At once, or at the end of the transaction at the latest.
    script = ";".join([*statements, "SET CONSTRAINTS ALL IMMEDIATE"])
    with pytest.raises(asyncpg.IntegrityConstraintViolationError) as refused:
        await database.execute(script)
    assert refused.value.constraint_name == constraint


async def test_another_attempt_may_have_the_positions_beside(database: asyncpg.Connection) -> None:
    await database.execute(authorization("acme", 10, 10))
    assert await database.fetchval("SELECT count(*) FROM authorizations") == 2


async def test_an_entry_that_continues_the_account_is_taken(database: asyncpg.Connection) -> None:
    await database.execute(account(5, 56))
    await database.execute(entry(5, moved=(-1, 1, 0, 0), after=(56, 30, 15)))
    await database.execute("SET CONSTRAINTS ALL IMMEDIATE")
    assert await database.fetchval("SELECT max(version) FROM entries") == 5


@pytest.mark.parametrize("table", ["entries", "operations", "subscription_events"])
@pytest.mark.parametrize("statement", ["UPDATE {} SET tenant_id = 'other'", "DELETE FROM {}", "TRUNCATE {}"])
async def test_entries_operations_and_subscription_events_cannot_be_changed_or_deleted(
    database: asyncpg.Connection, table: str, statement: str
) -> None:
    with pytest.raises(asyncpg.RestrictViolationError, match="append-only"):
        await database.execute(statement.format(table))


async def test_a_purchase_and_a_request_are_there_once(database: asyncpg.Connection) -> None:
    with pytest.raises(asyncpg.UniqueViolationError):
        async with database.transaction():
            await database.execute("INSERT INTO operations SELECT * FROM operations")
    await database.execute("UPDATE lots SET source_ref = 'invoice-1'")
    with pytest.raises(asyncpg.UniqueViolationError) as refused:
        await database.execute(
            "INSERT INTO lots (tenant_id, version, units, available, source_ref, created_at) "
            "VALUES ('acme', 99, 1, 1, 'invoice-1', now())"
        )
    assert refused.value.constraint_name == "lots_source_ref"


async def test_every_index_says_which_query_it_is_for(database: asyncpg.Connection) -> None:
    silent = await database.fetch(
        """
        SELECT indexrelid::regclass::text AS name FROM pg_index
        WHERE indrelid IN (SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace)
            AND NOT indisprimary AND obj_description(indexrelid) IS NULL
        """
    )
    assert [row["name"] for row in silent] == []


async def test_every_key_has_the_tenant_or_says_why_it_spans_tenants(database: asyncpg.Connection) -> None:
    without = await database.fetch(
        """
        SELECT key.indexrelid::regclass::text AS name, obj_description(key.indexrelid) AS comment
        FROM pg_index AS key JOIN pg_class AS keyed ON keyed.oid = key.indrelid
        WHERE keyed.relnamespace = 'public'::regnamespace AND keyed.relname <> 'schema_version' AND key.indisunique
            AND NOT EXISTS (
                SELECT FROM pg_attribute
                WHERE attrelid = key.indrelid AND attnum = ANY (key.indkey) AND attname = 'tenant_id')
        """
    )
    assert {row["name"]: row["comment"].split(":")[0] for row in without} == {"operations_pkey": "Spans tenants"}
    foreign = await database.fetch(
        """
        SELECT conname FROM pg_constraint
        WHERE contype = 'f' AND NOT EXISTS (
            SELECT FROM pg_attribute WHERE attrelid = conrelid AND attnum = ANY (conkey) AND attname = 'tenant_id')
        """
    )
    assert foreign == []


async def test_no_statement_reads_a_whole_table_though_it_was_planned_when_that_was_small(
    ledger_url: str, ids: Ids
) -> None:
    async def whole_reads() -> dict[str, int]:
        rows = await connection.fetch(
            "SELECT relname, seq_scan FROM pg_stat_user_tables WHERE relname = ANY ($1)", TABLES
        )
        return {row["relname"]: row["seq_scan"] for row in rows}

    connection = await asyncpg.connect(ledger_url)
    try:
        async with serving(ledger_url, ManualClock()) as stub:
            tenant = await Tenant(stub, ids).open(100)
            reservation_id = (await tenant.reserve(90)).reservation.reservation_id
        await connection.execute("ANALYZE")
        before = await whole_reads()
        async with serving(ledger_url, ManualClock()) as stub:
            tenant = Tenant(stub, ids)
            sender = Sender(tenant, reservation_id)
            for number in range(10):  # PostgreSQL keeps a plan from the sixth time on
                await tenant.capture(reservation_id, 1)
                await tenant.release(reservation_id, 1)
                await tenant.refund(reservation_id, 1)
                await tenant.reserve(1)
                attempt = ids()
                asked = sender.authorize(attempt, [(number, number)], campaign_id="", enqueue_number=0)
                assert await asked == ""
                await (sender.void(attempt) if number % 2 else sender.capture(attempt, 1))
                await sender.withdraw(attempt)
        await connections_ended(connection)
        assert await whole_reads() == before
    finally:
        await connection.close()


async def test_a_reservation_is_found_by_its_key_though_statistics_know_other_tenants_only(
    ledger_url: str, ids: Ids
) -> None:
    async def reservations_read() -> int:
        await connections_ended(connection)
        reads = "SELECT sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relname = 'reservations'"
        return int(await connection.fetchval(reads))

    connection = await asyncpg.connect(ledger_url)
    try:
        await connection.execute("ALTER TABLE reservations SET (autovacuum_enabled = off)")
        async with serving(ledger_url, ManualClock()) as stub:
            other = await Tenant(stub, ids, "other").open(100)
            for _ in range(20):
                await other.reserve(1)
        await connection.execute("ANALYZE")
        async with serving(ledger_url, ManualClock()) as stub:
            tenant = await Tenant(stub, ids).open(1000)
            reserved = await asyncio.gather(*(tenant.reserve(2) for _ in range(500)))
        before = await reservations_read()
        async with serving(ledger_url, ManualClock()) as stub:
            tenant = Tenant(stub, ids)
            for answer in reserved[:10]:
                await tenant.capture(answer.reservation.reservation_id, 1)
                await tenant.release(answer.reservation.reservation_id, 1)
        assert await reservations_read() - before < 100
    finally:
        await connection.close()


async def test_who_holds_a_position_is_found_by_it_though_planned_when_there_were_no_attempts(
    ledger_url: str, ids: Ids
) -> None:
    async def read(index: str) -> int:
        await connections_ended(connection)
        reads = "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = $1"
        return int(await connection.fetchval(reads, index))

    connection = await asyncpg.connect(ledger_url)
    try:
        await connection.execute("ALTER TABLE authorizations SET (autovacuum_enabled = off)")
        async with serving(ledger_url, ManualClock()) as stub:
            tenant = await Tenant(stub, ids).open(2000)
            sender = await sender_of(tenant, 2000)
            for number in range(300):
                assert await sender.authorize(ids(), [(number, number)]) == ""
        # Each looks for its own positions and its own id, and reads none of the others.
        assert await read("authorizations_taken_once") <= 600
        assert await read("authorizations_pkey") <= 600
    finally:
        await connection.close()


async def test_the_queries_and_the_migrations_mean_the_same_tables(ledger_url: str) -> None:
    def differences(connection: Any) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"version_table": "schema_version"})
        found = compare_metadata(context, METADATA)
        # Indexes and foreign keys are written in the migrations only.
        return [item for item in found if isinstance(item, list) or item[0] not in {"remove_index", "remove_fk"}]

    database = Database(ledger_url, application_name="test")
    try:
        async with database.connect() as connection:
            assert await connection.run_sync(differences) == []
    finally:
        await database.stop()


async def test_operations_are_found_under_their_request_ids(database: asyncpg.Connection) -> None:
    rows = await database.fetch("SELECT request_id, content, entry_version FROM operations ORDER BY request_id")
    assert len(rows) == 6
    kept = [row for row in rows if row["entry_version"] is None]
    assert all(UUID(str(row["request_id"])) and row["content"].startswith('{"operation":') for row in kept)
    # A capture's content is its entry's; it is not kept twice.
    [capture] = [row for row in rows if row["entry_version"] is not None]
    assert capture["content"] is None
    found = await database.fetchrow(
        "SELECT request_id, kind FROM entries WHERE tenant_id = 'acme' AND version = $1", capture["entry_version"]
    )
    assert tuple(found) == (capture["request_id"], 4)


async def test_the_sql_for_those_who_migrate_by_hand_gives_a_ledger_that_works(database_url: str, ids: Ids) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(upgrade_sql(MIGRATIONS))
        async with serving(database_url, ManualClock()) as stub:
            tenant = await Tenant(stub, ids).open(10)
            await tenant.reserve(4)
            assert (await tenant.verify()).consistent
        with pytest.raises(asyncpg.RestrictViolationError, match="table entries is append-only: DELETE refused"):
            await connection.execute("DELETE FROM entries")
    finally:
        await connection.close()
