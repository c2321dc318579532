"""Tasks and a database that dies under their workers: who is still alive goes on at once, nobody waits for a lease."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.storage.instants import read_instant
from bulksms_campaign.storage.tasks import Task, TaskKind, ask_for_task
from bulksms_campaign.workers.task_worker import TaskWorker
from devstack.eventually import eventually
from devstack.postgres import EmbeddedPostgres
from devstack.servers import ServerOptions, Servers
from servicekit.database import Database, DatabaseUnavailable
from servicekit.migrations import upgrade

from .conftest import MIGRATIONS

pytestmark = pytest.mark.slow

LEASE = timedelta(minutes=10)


async def ask(connection: AsyncConnection, kind: TaskKind) -> None:
    await ask_for_task(connection, kind, "acme", uuid4(), await read_instant(connection))


@pytest.fixture
def mortal_servers(tmp_path: Path, redis_url: str) -> Iterator[Servers]:
    """A PostgreSQL of this test's own, to be killed."""
    with Servers(ServerOptions(tmp_path, ephemeral=True, fsync=False, database_url=None, redis_url=redis_url)) as made:
        yield made


@pytest.fixture
def campaign_database_url(mortal_servers: Servers) -> str:
    made = mortal_servers.create_database("campaign")
    asyncio.run(upgrade(made.url, MIGRATIONS))
    return made.url


@pytest.fixture
def postgres(mortal_servers: Servers) -> EmbeddedPostgres:
    assert mortal_servers.postgres is not None
    return mortal_servers.postgres


@pytest.mark.parametrize("done", [False, True], ids=["in the middle of it", "when it was done"])
async def test_a_worker_that_outlives_its_database_lets_go_of_its_task_without_waiting_for_the_lease(
    campaign_database: Database, postgres: EmbeddedPostgres, done: bool
) -> None:
    claimed: list[Task] = []

    async def work(task: Task) -> timedelta | None:
        claimed.append(task)
        if len(claimed) == 1:
            await asyncio.to_thread(postgres.kill)
            if not done:
                await campaign_database.run_transaction(lambda c: ask(c, TaskKind.CLOSE_RESERVATION))
        return None

    async with campaign_database.begin() as connection:
        await ask(connection, TaskKind.LAUNCH)
    alive = TaskWorker(campaign_database, TaskKind.LAUNCH, work, lease=LEASE)
    with pytest.raises(DatabaseUnavailable):
        await alive.do_one()
    with pytest.raises(DatabaseUnavailable):
        await alive.do_one()  # still away
    await asyncio.to_thread(postgres.start)
    await campaign_database.wait_ready(timedelta(seconds=20))
    other = TaskWorker(campaign_database, TaskKind.LAUNCH, work, lease=LEASE)
    assert not await other.do_one(), "the lease has ten minutes left"
    async with asyncio.timeout(20):
        while not done and len(claimed) == 1:
            await alive.do_one()
    assert not await alive.do_one()
    assert not await other.do_one()
    assert [task.subject for task in claimed] == [claimed[0].subject] * (1 if done else 2)
    async with campaign_database.connect() as connection:
        assert (await connection.exec_driver_sql("SELECT count(*) FROM tasks")).scalar() == 0


async def test_a_late_end_of_a_task_that_is_another_workers_by_now_changes_nothing(
    campaign_database: Database, postgres: EmbeddedPostgres
) -> None:
    async def die(_: Task) -> None:
        await asyncio.to_thread(postgres.kill)

    async with campaign_database.begin() as connection:
        await ask(connection, TaskKind.LAUNCH)
    late = TaskWorker(campaign_database, TaskKind.LAUNCH, die, lease=timedelta(seconds=1))
    with pytest.raises(DatabaseUnavailable):
        await late.do_one()
    await asyncio.to_thread(postgres.start)
    await campaign_database.wait_ready(timedelta(seconds=20))
    taken, let_go = asyncio.Event(), asyncio.Event()

    async def wait(_: Task) -> None:
        taken.set()
        await let_go.wait()

    other = TaskWorker(campaign_database, TaskKind.LAUNCH, wait, lease=LEASE)

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        # The lease of the one before runs out by the database's clock.
        group.create_task(eventually(other.do_one, 20, every_seconds=0.05))
        await taken.wait()
        assert not await late.do_one(), "nothing to claim, and its own end was written"
        async with campaign_database.connect() as connection:
            leased = await connection.exec_driver_sql("SELECT count(*) FROM tasks WHERE leased_until > now()")
            assert leased.scalar() == 1
        let_go.set()
    async with campaign_database.connect() as connection:
        assert (await connection.exec_driver_sql("SELECT count(*) FROM tasks")).scalar() == 0
