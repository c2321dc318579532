"""The schema, the leases of tasks, and plans that do not depend on statistics."""

from __future__ import annotations

import asyncio
from datetime import date, timedelta
from uuid import uuid4

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, text

from bulksms_campaign.domain.audiences import Audience
from bulksms_campaign.domain.enqueues import EnqueueKey
from bulksms_campaign.domain.recipients import Fact
from bulksms_campaign.domain.results import MessageReport, OutcomeGroup
from bulksms_campaign.storage import imports, recipients, snapshots, tasks
from bulksms_campaign.storage.audiences import read_audience
from bulksms_campaign.storage.contacts import list_contacts
from bulksms_campaign.storage.instants import read_instant
from bulksms_campaign.storage.reports import record_reports
from bulksms_campaign.storage.results import record_outcomes
from bulksms_campaign.storage.tables import METADATA
from bulksms_campaign.storage.tasks import TaskKind
from servicekit.bulk import raw
from servicekit.database import Database

LEASE = timedelta(seconds=30)


async def test_the_tables_queries_see_are_the_tables_migrations_make(campaign_database: Database) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"version_table": "schema_version"})
        return [
            item
            for item in compare_metadata(context, METADATA)
            if not str(item[0]).endswith(("_index", "_constraint", "_fk"))
        ]

    async with campaign_database.engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_no_index_of_recipients_mentions_status_or_facts(campaign_database: Database) -> None:
    async with campaign_database.connect() as connection:
        found = await connection.execute(text("SELECT indexdef FROM pg_indexes WHERE tablename = 'recipients'"))
        definitions = [row[0] for row in found]
    assert len(definitions) == 2
    assert not any("status" in definition or "facts" in definition for definition in definitions)


async def test_every_index_that_is_no_key_says_which_query_it_serves(campaign_database: Database) -> None:
    async with campaign_database.connect() as connection:
        silent = await connection.execute(
            text("""
            SELECT c.relname FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid
            JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'public'
            WHERE NOT i.indisunique AND obj_description(c.oid) IS NULL
            """)
        )
        assert silent.all() == []


async def test_a_task_is_claimed_by_one_worker_until_its_lease_is_over(campaign_database: Database) -> None:
    subject = uuid4()
    async with campaign_database.begin() as connection:
        await tasks.ask_for_task(connection, TaskKind.LAUNCH, "acme", subject, await read_instant(connection))

    async def claim(lease: timedelta = LEASE) -> tasks.Task | None:
        async with campaign_database.begin() as connection:
            return await tasks.claim_task(connection, TaskKind.LAUNCH, lease)

    claims = [claimed for claimed in await asyncio.gather(*(claim() for _ in range(4))) if claimed]
    assert [claimed.subject for claimed in claims] == [subject]
    (first,) = claims
    assert await claim() is None
    async with campaign_database.begin() as connection:
        assert await tasks.extend_lease(connection, first, timedelta(seconds=-1))
    second = await claim()
    assert second is not None
    async with campaign_database.begin() as connection:
        # Who lost the lease can neither extend it nor finish what is another's now.
        assert not await tasks.extend_lease(connection, first, LEASE)
        await tasks.finish_task(connection, first)
        assert await tasks.extend_lease(connection, second, LEASE)


async def test_a_task_asked_for_again_while_it_is_done_is_done_once_more(campaign_database: Database) -> None:
    subject = uuid4()
    async with campaign_database.begin() as connection:
        now = await read_instant(connection)
        await tasks.ask_for_task(connection, TaskKind.CONTROL, "acme", subject, now)
        claimed = await tasks.claim_task(connection, TaskKind.CONTROL, LEASE)
        assert claimed is not None
        await tasks.ask_for_task(connection, TaskKind.CONTROL, "acme", subject, now)
        assert await tasks.claim_task(connection, TaskKind.CONTROL, LEASE) is None
        await tasks.finish_task(connection, claimed)
        again = await tasks.claim_task(connection, TaskKind.CONTROL, LEASE)
        assert again is not None
        await tasks.finish_task(connection, again)
        assert await tasks.claim_task(connection, TaskKind.CONTROL, LEASE) is None


async def test_results_and_reports_are_quick_on_a_table_that_has_just_grown(campaign_database: Database) -> None:
    """Left to the planner, without statistics, each of these takes more than ten seconds."""
    campaign_id, first = uuid4(), 306900000000
    key = EnqueueKey("acme", campaign_id, 1, date(2026, 1, 1))
    phones = list(range(first, first + 5000))
    async with campaign_database.begin() as connection:
        await connection.execute(
            text("""
            INSERT INTO recipients
                (tenant_id, campaign_id, enqueue_number, launched_on, phone, position, units, updated_at)
            SELECT 'acme', :campaign_id, 1, :day, CAST(:first AS bigint) + i, i, 1, now()
            FROM generate_series(0, 99999) AS i
            """),
            {"campaign_id": campaign_id, "first": first, "day": key.launched_on},
        )
    outcomes = OutcomeGroup(Fact.ACCEPTED, "", "", phones, [f"m{phone}" for phone in phones])
    reports = {f"m{phone}": MessageReport(f"m{phone}", Fact.DELIVERED, "") for phone in phones}
    async with asyncio.timeout(8):
        for _ in range(7):  # from the sixth time on a prepared statement may be planned without its arguments
            async with campaign_database.begin() as connection:
                await record_outcomes(connection, key, 1, [outcomes], await read_instant(connection))
        for _ in range(7):
            async with campaign_database.begin() as connection:
                assert len((await record_reports(connection, reports)).known) == 5000


async def test_an_audience_that_has_just_been_imported_is_previewed_listed_and_copied(
    campaign_database: Database,
) -> None:
    """Planned by the statistics from before the import, the preview takes some 18 seconds and the copy 40."""
    await _keep_statistics_of_small_tenants(campaign_database)
    phones = range(306900000000, 306900000000 + 30_000)
    async with campaign_database.connect() as connection:
        await imports.create_stage(connection)
        await imports.stage(connection, [(number, phone, "Ann", "") for number, phone in enumerate(phones)], [])
        async with connection.begin():
            await imports.merge(connection, "acme", uuid4(), b"", ["customers"], await read_instant(connection))
        await imports.drop_stage(connection)
    everybody = Audience(all_contacts=False, groups=("customers",), exclude_groups=())
    async with asyncio.timeout(15):
        async with campaign_database.connect() as connection:
            read = read_audience(await raw(connection), "acme", everybody, limit=20_000, at_once=1000)
            assert [len(rows) async for rows in read] == [1000] * 20
        async with campaign_database.connect() as connection:
            page = await list_contacts(connection, "acme", "customers", phones[-3], 100)
            assert [(contact.phone, contact.content.groups) for contact in page] == [
                (phone, ("customers",)) for phone in phones[-2:]
            ]
        async with campaign_database.begin() as connection:
            now = await read_instant(connection)
            key = EnqueueKey("acme", uuid4(), 1, now.date())
            copied = await snapshots.insert_snapshot(connection, key, everybody, ["first_name"], now)
            assert copied == 30_000
            removed = await snapshots.remove_newest(connection, key, everybody, 1000)
            assert removed == 1000
            assert await recipients.count_enqueued(connection, key) == 29_000


async def test_a_snapshots_digest_is_of_who_stands_where_and_of_nothing_else(campaign_database: Database) -> None:
    people = {306900000001: 0, 306900000002: 1, 306900000003: 2}
    one = await _digest_of(campaign_database, people)
    assert await _digest_of(campaign_database, dict(reversed(people.items()))) == one
    others = (
        {},
        {306900000001: 0, 306900000002: 1},
        {306900000001: 0, 306900000002: 2, 306900000003: 1},
        {306900000001: 0, 306900000002: 1, 306900000004: 2},
        {306900000001: 1, 306900000002: 2, 306900000003: 3},
    )
    digests = [await _digest_of(campaign_database, other) for other in others]
    assert len({one, *digests}) == 1 + len(others)


async def _digest_of(database: Database, people: dict[int, int]) -> bytes:
    """The digest of an enqueue of its own with these phones at these positions."""
    async with database.begin() as connection:
        now = await read_instant(connection)
        key = EnqueueKey("acme", uuid4(), 1, now.date())
        for phone, position in people.items():
            await connection.execute(
                text("""
                INSERT INTO recipients (tenant_id, campaign_id, enqueue_number, launched_on, phone, position, units,
                    updated_at)
                VALUES (:tenant_id, :campaign_id, 1, :day, :phone, :position, 1, :now)
                """),
                {
                    "tenant_id": key.tenant_id,
                    "campaign_id": key.campaign_id,
                    "day": key.launched_on,
                    "phone": phone,
                    "position": position,
                    "now": now,
                },
            )
        return await snapshots.read_digest(connection, key)


async def _keep_statistics_of_small_tenants(database: Database) -> None:
    async with database.begin() as connection:
        for table, columns, values in (
            ("contacts", "first_name, last_name, updated_at, created_at", "'', '', now(), now()"),
            ("contact_groups", "group_name, added_at", "'customers', now()"),
        ):
            await connection.execute(text(f"ALTER TABLE {table} SET (autovacuum_enabled = off)"))
            await connection.execute(
                text(f"""
                INSERT INTO {table} (tenant_id, phone, {columns})
                SELECT 'tenant' || i % 50, 306800000000 + i, {values} FROM generate_series(1, 1000) AS i
                """)
            )
            await connection.execute(text(f"ANALYZE {table}"))
