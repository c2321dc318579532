"""Against a real PostgreSQL: transactions, bulk loading, limits, killed connections, migrations."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from sqlalchemy import exc, make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection

from devstack.eventually import eventually
from servicekit import database as databases
from servicekit import migrations, statement_spans
from servicekit.bulk import copy_records, execute_long, raw
from servicekit.database import Database, DatabaseUnavailable
from servicekit.errors import Category
from servicekit.settings import ServiceSettings, SettingsError


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(database_url, application_name="tests", pool_size=3, pool_timeout=timedelta(seconds=1))
    await database.start()
    async with database.begin() as connection:
        await connection.execute(text("CREATE TABLE item (id bigint PRIMARY KEY, name text NOT NULL)"))
    yield database
    await database.stop()


async def count_items(database: Database) -> int:
    async with database.connect() as connection:
        return int((await connection.execute(text("SELECT count(*) FROM item"))).scalar_one())


async def test_a_block_that_raises_is_rolled_back(database: Database) -> None:
    with pytest.raises(ValueError, match="no"):  # noqa: PT012 - the block is what is tested
        async with database.begin() as connection:
            await connection.execute(text("INSERT INTO item VALUES (1, 'a')"))
            raise ValueError("no")
    assert await count_items(database) == 0


async def test_an_autocommit_statement_is_committed_at_once_and_its_connection_is_an_ordinary_one_afterwards(
    database_url: str,
) -> None:
    database = Database(database_url, application_name="tests", pool_size=1)
    with pytest.raises(ValueError, match="no"):  # noqa: PT012 - the block is what is tested
        async with database.autocommit() as connection:
            await connection.execute(text("CREATE TABLE item (id bigint PRIMARY KEY, name text NOT NULL)"))
            await connection.execute(text("INSERT INTO item VALUES (1, 'a')"))
            raise ValueError("no")
    assert await count_items(database) == 1
    with pytest.raises(ValueError, match="no"):  # noqa: PT012 - the block is what is tested
        async with database.begin() as connection:
            await connection.execute(text("INSERT INTO item VALUES (2, 'b')"))
            raise ValueError("no")
    assert await count_items(database) == 1
    await database.stop()


async def test_a_copy_as_the_first_statement_is_rolled_back_with_its_transaction(database: Database) -> None:
    with pytest.raises(ValueError, match="no"):  # noqa: PT012 - the block is what is tested
        async with database.begin() as connection:
            rows = [(n, str(n)) for n in range(1000)]
            assert await copy_records(connection, "item", columns=["id", "name"], records=rows) == 1000
            raise ValueError("no")
    assert await count_items(database) == 0


async def test_a_raw_statement_as_the_first_one_is_rolled_back_too(database: Database) -> None:
    with pytest.raises(ValueError, match="no"):  # noqa: PT012 - the block is what is tested
        async with database.begin() as connection:
            driver = await raw(connection)
            await driver.execute("INSERT INTO item SELECT * FROM unnest($1::bigint[], $2::text[])", [1, 2], ["a", "b"])
            raise ValueError("no")
    assert await count_items(database) == 0


async def test_bulk_loads_are_committed_with_the_block(database: Database) -> None:
    async with database.begin() as connection:
        await copy_records(
            connection, "item", columns=["id", "name"], records=[(1, "a"), (2, "b")], limit=timedelta(minutes=1)
        )
        driver = await raw(connection)
        await driver.execute("INSERT INTO item SELECT * FROM unnest($1::bigint[], $2::text[])", [3], ["c"])
    assert await count_items(database) == 3


async def test_connections_are_set_up_as_promised(database: Database) -> None:
    async with database.connect() as connection:
        for setting, value in {
            "jit": "off",
            "statement_timeout": "30s",
            "idle_in_transaction_session_timeout": "1min",
            "application_name": "tests",
            "timezone": "UTC",
        }.items():
            assert (await connection.execute(text(f"SHOW {setting}"))).scalar_one().lower() == value.lower()


async def test_a_statement_over_its_limit_is_an_unavailable_database(database_url: str) -> None:
    database = Database(database_url, application_name="tests", statement_timeout=timedelta(milliseconds=100))
    with pytest.raises(exc.DBAPIError) as caught:
        async with database.begin() as connection:
            await connection.execute(text("SELECT pg_sleep(5)"))
    error = databases.as_domain_error(caught.value)
    assert error is not None
    assert (error.category, error.reason) == (Category.UNAVAILABLE, "DATABASE_SLOW")
    await database.stop()


async def test_a_long_statement_can_be_given_more_time_for_itself_only(database_url: str) -> None:
    short = timedelta(milliseconds=100)
    database = Database(database_url, application_name="tests", statement_timeout=short, command_timeout=short * 2)
    async with database.begin() as connection:
        limit = timedelta(seconds=5)
        sql = "INSERT INTO slow SELECT n FROM generate_series(1, $1::int) n, pg_sleep(0.3)"
        await connection.execute(text("CREATE TABLE slow (n int)"))
        assert await execute_long(connection, sql, 7, limit=limit) == 7
    async with database.connect() as connection:
        assert (await connection.execute(text("SHOW statement_timeout"))).scalar_one() == "100ms"
    await database.stop()


async def test_a_pool_with_nothing_left_is_an_overload(database: Database) -> None:
    async with database.connect(), database.connect(), database.connect():
        with pytest.raises(exc.TimeoutError) as caught:
            async with database.connect():
                pass
    error = databases.as_domain_error(caught.value)
    assert error is not None
    assert error.category is Category.OVERLOADED


async def sleep_long(database: Database) -> None:
    async with database.begin() as connection:
        await connection.execute(text("SELECT pg_sleep(25)"))


async def until_sleeping(database: Database, count: int) -> None:
    active = text("SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(25)' AND state = 'active'")
    async with asyncio.timeout(15):
        while True:  # a transaction sees one state of this view: a new one each time
            async with database.connect() as connection:
                if (await connection.execute(active)).scalar_one() == count:
                    return


async def test_a_cancelled_statement_is_stopped_at_the_server_and_its_connection_given_back(
    database: Database,
) -> None:
    for _ in range(4):  # one more than the pool has
        task = asyncio.create_task(sleep_long(database))
        await until_sleeping(database, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until_sleeping(database, 0)
    assert await count_items(database) == 0


async def test_a_statement_ends_at_the_server_when_its_connection_is_gone_without_a_word(database: Database) -> None:
    async with database.connect() as connection:
        driver = (await connection.get_raw_connection()).driver_connection
        assert driver is not None
        task = asyncio.create_task(driver.execute("SELECT pg_sleep(25)"))
        await until_sleeping(database, 1)
        driver.terminate()  # what the server sees of a process that was killed
        with pytest.raises(asyncpg.PostgresError):
            await task
        await until_sleeping(database, 0)


async def kill_others(database_url: str) -> None:
    connection = await asyncpg.connect(database_url)
    await connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await connection.close()


async def test_idle_connections_the_server_has_killed_are_never_noticed(database: Database, database_url: str) -> None:
    async with database.connect() as one, database.connect() as two:
        drivers = [await raw(one), await raw(two)]
    await kill_others(database_url)
    await eventually(lambda: all(driver.is_closed() for driver in drivers), 10)
    for _ in range(5):
        assert await count_items(database) == 0


async def test_a_transaction_is_repeated_when_its_connection_is_lost_before_commit(
    database: Database, database_url: str
) -> None:
    attempts = 0

    async def body(connection: AsyncConnection) -> int:
        nonlocal attempts
        attempts += 1
        await connection.execute(text("INSERT INTO item VALUES (:id, 'a')"), {"id": attempts})
        if attempts == 1:
            await kill_others(database_url)
        await connection.execute(text("SELECT 1"))
        return attempts

    assert await database.run_transaction(body) == 2
    assert await count_items(database) == 1


async def test_a_connection_lost_while_committing_is_raised_not_repeated(database: Database, database_url: str) -> None:
    attempts = 0

    async def body(connection: AsyncConnection) -> None:
        nonlocal attempts
        attempts += 1
        await connection.execute(text("INSERT INTO item VALUES (1, 'a')"))
        await kill_others(database_url)

    with pytest.raises(exc.DBAPIError) as caught:
        await database.run_transaction(body)
    assert attempts == 1
    assert databases.is_connection_lost(caught.value)
    error = databases.as_domain_error(caught.value)
    assert error is not None
    assert error.category is Category.UNAVAILABLE
    assert await count_items(database) == 0


async def test_a_raw_transaction_is_committed_or_rolled_back_whole_and_its_connection_goes_on(
    database: Database,
) -> None:
    async def insert(driver: asyncpg.Connection) -> None:
        await driver.execute("INSERT INTO item VALUES (1, 'a')")

    async def insert_and_raise(driver: asyncpg.Connection) -> None:
        await driver.execute("INSERT INTO item VALUES (2, 'b')")
        raise ValueError("no")

    for _ in range(4):  # one more than the pool has
        with pytest.raises(ValueError, match="no"):
            await database.run_raw_transaction(insert_and_raise)
    await database.run_raw_transaction(insert)
    with pytest.raises(asyncpg.UniqueViolationError):
        await database.run_raw_transaction(insert)
    assert await count_items(database) == 1


async def test_a_raw_transaction_is_repeated_when_its_connection_is_lost_before_commit_and_only_then(
    database: Database, database_url: str
) -> None:
    attempts = 0

    async def body(driver: asyncpg.Connection) -> int:
        nonlocal attempts
        attempts += 1
        await driver.execute("INSERT INTO item VALUES ($1, 'a')", attempts)
        if attempts in (1, 3):
            await kill_others(database_url)
        if attempts == 1:
            await driver.execute("SELECT 1")
        return attempts

    assert await database.run_raw_transaction(body) == 2
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)) as caught:
        await database.run_raw_transaction(body)  # the third is killed before its COMMIT
    assert attempts == 3
    assert databases.is_connection_lost(caught.value)
    assert await count_items(database) == 1


async def test_a_cancelled_raw_transaction_is_rolled_back_and_its_connection_given_back(database: Database) -> None:
    inserted = asyncio.Event()

    async def body(driver: asyncpg.Connection) -> None:
        await driver.execute("INSERT INTO item VALUES (1, 'a')")
        inserted.set()
        await driver.execute("SELECT pg_sleep(20)")

    for _ in range(4):  # one more than the pool has; the row's key is free again each time
        inserted.clear()
        task = asyncio.create_task(database.run_raw_transaction(body))
        await eventually(inserted.is_set, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await count_items(database) == 0


async def test_a_migration_under_a_prepared_statement_makes_its_transaction_run_again(database: Database) -> None:
    async def with_sqlalchemy(connection: AsyncConnection) -> int:
        return len((await connection.execute(text("SELECT * FROM item"))).keys())

    async def with_asyncpg(driver: asyncpg.Connection) -> int:
        await driver.execute("INSERT INTO item (id, name) VALUES (1, 'a') ON CONFLICT DO NOTHING")
        return len(await driver.fetchrow("SELECT * FROM item"))

    for columns in (2, 3, 4):
        assert await database.run_raw_transaction(with_asyncpg) == columns
        assert await database.run_transaction(with_sqlalchemy) == columns
        async with database.begin() as connection:
            await connection.execute(text(f"ALTER TABLE item ADD COLUMN column_{columns} integer"))


async def test_deadlocked_transactions_all_succeed_in_the_end(database: Database) -> None:
    async with database.begin() as connection:
        await copy_records(connection, "item", columns=["id", "name"], records=[(1, ""), (2, "")])
    both_hold_one = asyncio.Barrier(2)
    first_time = {1: True, 2: True}

    def transfer(first: int, second: int):
        async def body(connection: AsyncConnection) -> None:
            update = text("UPDATE item SET name = name || 'x' WHERE id = :id")
            await connection.execute(update, {"id": first})
            if first_time.pop(first, False):
                await both_hold_one.wait()
            await connection.execute(update, {"id": second})

        return body

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        group.create_task(database.run_transaction(transfer(1, 2)))
        group.create_task(database.run_transaction(transfer(2, 1)))
    async with database.connect() as connection:
        names = (await connection.execute(text("SELECT name FROM item ORDER BY id"))).scalars().all()
    assert names == ["xx", "xx"]


async def test_a_broken_constraint_is_named_and_not_repeated(database: Database) -> None:
    attempts = 0

    async def body(connection: AsyncConnection) -> None:
        nonlocal attempts
        attempts += 1
        await connection.execute(text("INSERT INTO item VALUES (1, 'a'), (1, 'b')"))

    with pytest.raises(exc.IntegrityError) as caught:
        await database.run_transaction(body)
    assert attempts == 1
    assert databases.violated_constraint(caught.value) == "item_pkey"
    with pytest.raises(asyncpg.UniqueViolationError) as raw_error:
        async with database.begin() as connection:
            await copy_records(connection, "item", columns=["id", "name"], records=[(1, "a"), (1, "b")])
    assert databases.violated_constraint(raw_error.value) == "item_pkey"
    assert databases.as_domain_error(raw_error.value) is None


async def test_statement_parameters_appear_in_no_error(database: Database) -> None:
    with pytest.raises(exc.DBAPIError) as caught:
        async with database.begin() as connection:
            await connection.execute(text("INSERT INTO item VALUES (1, :name), (1, 'b')"), {"name": "private"})
    assert "private" not in str(caught.value)


async def test_a_database_that_is_away_is_waited_for_up_to_the_deadline() -> None:
    database = Database("postgresql://nobody:hunter2@127.0.0.1:1/none", application_name="tests")
    with pytest.raises(DatabaseUnavailable) as caught:
        await database.wait_ready(timedelta(milliseconds=300))
    assert "127.0.0.1:1/none" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    await database.stop()


async def test_a_wrong_database_name_or_url_fails_at_once(database_url: str) -> None:
    url = make_url(database_url).set(database="no_such_database").render_as_string(hide_password=False)
    database = Database(url, application_name="tests")
    with pytest.raises(SettingsError, match=r"DATABASE_URL.*no_such_database"):
        await database.wait_ready(timedelta(seconds=30))
    await database.stop()
    for wrong in ("mysql://a:b@c/d", "what is this"):
        with pytest.raises(SettingsError, match="DATABASE_URL"):
            Database(wrong, application_name="tests")
    with pytest.raises(SettingsError, match="DATABASE_URL is not set"):
        Database.from_settings(ServiceSettings(database_url=None))


async def test_statements_are_spans_below_a_recording_span_only(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(statement_spans.trace, "get_tracer", provider.get_tracer)
    async with database.begin() as connection:
        await connection.execute(text("SELECT 1"))
    assert exporter.get_finished_spans() == ()
    with provider.get_tracer("test").start_as_current_span("work"):
        async with database.begin() as connection:
            await connection.execute(text("INSERT INTO item VALUES (1, :name)"), {"name": "private"})
            await copy_records(connection, "item", columns=["id", "name"], records=[(2, "private")])
        with pytest.raises(exc.DBAPIError):
            async with database.begin() as connection:
                await connection.execute(text("SELECT nothing"))
    spans = {span.name: span for span in exporter.get_finished_spans()}
    assert set(spans) == {"work", "INSERT", "SELECT", "COPY"}
    assert (spans["SELECT"].attributes or {})["error.type"] == "42703"
    assert "private" not in str([span.to_json() for span in spans.values()])


ENVIRONMENT = "from servicekit.migrations import run_environment\n\nrun_environment()\n"
REVISION = """
from alembic import op

revision = "{revision}"
down_revision = {down}

def upgrade():
    op.execute("{sql}")
"""


def write_revisions(folder: Path, statements: list[str]) -> Path:
    (folder / "versions").mkdir(parents=True, exist_ok=True)
    (folder / "env.py").write_text(ENVIRONMENT)
    down: str | None = None
    for number, sql in enumerate(statements, 1):
        revision = f"{number:04}"
        body = textwrap.dedent(REVISION).format(revision=revision, down=repr(down), sql=sql)
        (folder / "versions" / f"{revision}_step.py").write_text(body)
        down = revision
    return folder


STATEMENTS = ["CREATE TABLE a (n int)", "INSERT INTO a VALUES (1)", "ALTER TABLE a ADD COLUMN m int"]


async def test_many_replicas_may_migrate_at_once_and_each_revision_runs_once(database_url: str, tmp_path: Path) -> None:
    folder = write_revisions(tmp_path / "migrations", STATEMENTS)
    assert await migrations.pending(database_url, folder) == ["0001", "0002", "0003"]
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(migrations.upgrade(database_url, folder))
    assert await migrations.pending(database_url, folder) == []
    connection = await asyncpg.connect(database_url)
    assert await connection.fetchval("SELECT count(*) FROM a") == 1
    assert await connection.fetchval("SELECT version_num FROM schema_version") == "0003"
    # The server is shared with other tests: only this database's locks are ours.
    held = "SELECT count(*) FROM pg_locks JOIN pg_database ON database = oid WHERE datname = current_database()"
    assert await connection.fetchval(f"{held} AND locktype = 'advisory'") == 0
    await connection.close()


async def test_a_failing_revision_leaves_the_earlier_ones_and_the_lock_free(database_url: str, tmp_path: Path) -> None:
    folder = write_revisions(tmp_path / "migrations", ["CREATE TABLE a (n int)", "CREATE TABLE a (n int)"])
    with pytest.raises(exc.ProgrammingError):
        await migrations.upgrade(database_url, folder)
    assert await migrations.pending(database_url, folder) == ["0002"]
    # Of another length: Python takes a file of the same second and size for the one it has compiled.
    write_revisions(folder, ["CREATE TABLE a (n int)", "CREATE TABLE other (n int)"])
    await migrations.upgrade(database_url, folder)
    assert await migrations.pending(database_url, folder) == []


async def test_a_database_ahead_of_the_code_is_no_obstacle(database_url: str, tmp_path: Path) -> None:
    await migrations.upgrade(database_url, write_revisions(tmp_path / "new", STATEMENTS))
    assert await migrations.pending(database_url, write_revisions(tmp_path / "old", STATEMENTS[:1])) == []


def test_the_sql_can_be_had_without_a_database(tmp_path: Path) -> None:
    sql = migrations.upgrade_sql(write_revisions(tmp_path / "migrations", STATEMENTS))
    assert all(statement in sql for statement in STATEMENTS)
    assert "schema_version" in sql
