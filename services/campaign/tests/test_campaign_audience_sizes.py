"""Cached sizes of composed audiences: never used when they are not true, true whatever happened, and quick to read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta
from functools import partial
from random import Random
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms.campaign.v1 import campaign_pb2, contacts_pb2
from bulksms_campaign.domain.audiences import Audience, AudienceSize
from bulksms_campaign.domain.campaigns import CampaignContent, CampaignPriority, MessageClass, Step
from bulksms_campaign.domain.contacts import ContactContent
from bulksms_campaign.peers.ledger import LedgerPeer
from bulksms_campaign.storage import audience_sizes, contacts
from bulksms_campaign.storage.events import list_events
from bulksms_campaign.storage.imports import create_stage, drop_stage, merge, stage
from bulksms_campaign.storage.instants import read_instant, read_raw_instant
from bulksms_campaign.storage.requests import MutationKey
from bulksms_campaign.storage.tasks import Task, TaskKind
from bulksms_campaign.use_cases.counting import count_audience
from bulksms_campaign.use_cases.drafts import Drafts
from bulksms_campaign.use_cases.enqueue import Enqueue
from bulksms_campaign.use_cases.signals import Signals
from bulksms_campaign.workers.counting import Counting
from bulksms_campaign.workers.launch import take_snapshot
from devstack.eventually import eventually
from servicekit.clock import SystemClock
from servicekit.database import Database
from servicekit.grpc.server import GrpcServer

from .campaign_support import TENANT, Service
from .campaign_support import audience as audience_message

GROUPS = ("a", "b", "c", "d")
PHONES = range(306940000001, 306940000025)
FIRST = PHONES[0]


def of(*groups: str, exclude: Sequence[str] = ()) -> Audience:
    return Audience(all_contacts=not groups, groups=groups, exclude_groups=tuple(exclude))


AUDIENCES = (
    of("a", "b"),
    of("a", "b", "c", exclude=("d",)),
    of("a", exclude=("b",)),
    of("b", "c", exclude=("a", "d")),
    of("a", "b", exclude=("a", "b")),
    of("c", "d", "nobody", exclude=("no one",)),
    of(exclude=("a",)),
    of(exclude=("a", "c", "d")),
    of("d"),
    of(),
)


async def true_sizes(connection: AsyncConnection) -> list[AudienceSize]:
    """The sizes of all AUDIENCES by looking at every contact."""
    rows = await connection.execute(
        text("""
        SELECT phone, ARRAY(SELECT group_name FROM contact_groups g WHERE (g.tenant_id, g.phone) = (:tenant, c.phone)),
            EXISTS (SELECT FROM opt_outs o WHERE (o.tenant_id, o.phone) = (:tenant, c.phone))
        FROM contacts c WHERE tenant_id = :tenant
        """),
        {"tenant": TENANT},
    )
    everybody = [(set(row[1]), row[2]) for row in rows]
    sizes = []
    for audience in AUDIENCES:
        included, excluded = set(audience.groups), set(audience.exclude_groups)
        chosen = [out for groups, out in everybody if (not included or groups & included) and not groups & excluded]
        sizes.append(AudienceSize(chosen.count(False), chosen.count(True)))
    return sizes


async def cached_size(database: Database, audience: Audience) -> AudienceSize | None:
    return await database.run_raw_transaction(lambda c: audience_sizes.read_size(c, TENANT, audience))


async def size(database: Database, audience: Audience) -> AudienceSize:
    return await count_audience(database, TENANT, audience)


async def follow(database: Database, audience: Audience) -> None:
    await database.run_raw_transaction(lambda c: audience_sizes.follow_size(c, TENANT, audience))


async def note_use(database: Database, audience: Audience) -> bool:
    async def body(connection: AsyncConnection) -> bool:
        return await audience_sizes.note_use(connection, TENANT, audience, await read_instant(connection))

    return await database.run_transaction(body)


async def upsert(database: Database, phone: int, *groups: str) -> None:
    async def body(connection: AsyncConnection) -> None:
        now = await read_instant(connection)
        created = await contacts.claim_contact(connection, TENANT, phone, now)
        content = ContactContent(groups=tuple(sorted(groups)))
        await contacts.write_contact(connection, TENANT, phone, content, now, created=created)

    await database.run_transaction(body)


async def delete(database: Database, phone: int) -> None:
    await database.run_transaction(lambda c: contacts.delete_contact(c, TENANT, phone))


async def opt_out(database: Database, phone: int) -> None:
    await database.run_transaction(lambda c: record_opt_out(c, phone))


async def record_opt_out(connection: AsyncConnection, phone: int) -> None:
    await contacts.opt_out(connection, TENANT, phone, "test", await read_instant(connection))


async def opt_in(database: Database, phone: int) -> None:
    await database.run_transaction(lambda c: contacts.opt_in(c, TENANT, phone))


async def import_phones(database: Database, phones: Sequence[int], groups: Sequence[str]) -> None:
    rows = [(number, phone, "", "") for number, phone in enumerate(phones, start=2)]
    async with database.connect() as connection:
        await create_stage(connection)
        await stage(connection, rows, [])
        async with connection.begin():
            await merge(connection, TENANT, uuid4(), b"", groups, await read_instant(connection))
        await drop_stage(connection)


async def test_a_size_is_counted_once_and_then_cached(campaign_database: Database) -> None:
    await import_phones(campaign_database, PHONES, ["a", "b"])
    await import_phones(campaign_database, PHONES[:5], ["c"])
    audience = of("a", "b", exclude=("c",))
    assert await cached_size(campaign_database, audience) is None
    assert await size(campaign_database, audience) == AudienceSize(19, 0)
    assert await cached_size(campaign_database, audience) == AudienceSize(19, 0)
    same = of("b", "c", "b", "a", exclude=("c",))
    assert await cached_size(campaign_database, same) == AudienceSize(19, 0), "written in another way"


async def test_all_contacts_but_one_group_are_never_counted(campaign_database: Database) -> None:
    await import_phones(campaign_database, PHONES, [])
    await import_phones(campaign_database, PHONES[:5], ["c"])
    await opt_out(campaign_database, PHONES[0])
    await opt_out(campaign_database, PHONES[-1])
    assert await cached_size(campaign_database, of(exclude=("c",))) == AudienceSize(18, 1)


@pytest.mark.parametrize(
    "change",
    [
        partial(import_phones, phones=[FIRST + 90], groups=["a"]),
        partial(import_phones, phones=[FIRST], groups=["c"]),
    ],
    ids=["an import into a group of it", "an import into a group it excludes"],
)
async def test_a_cached_size_is_not_used_after(
    campaign_database: Database, change: Callable[[Database], Awaitable[None]]
) -> None:
    await import_phones(campaign_database, PHONES, ["a"])
    audience = of("a", "b", exclude=("c",))
    before = await size(campaign_database, audience)
    await change(campaign_database)
    assert await cached_size(campaign_database, audience) is None
    assert await size(campaign_database, audience) != before


async def test_a_cached_size_outlives_what_does_not_concern_it(campaign_database: Database) -> None:
    await import_phones(campaign_database, PHONES, ["a"])
    audience = of("a", "b", exclude=("c",))
    await size(campaign_database, audience)
    await import_phones(campaign_database, PHONES[:3], ["d"])
    await import_phones(campaign_database, [FIRST + 90], [])
    assert await cached_size(campaign_database, audience) == AudienceSize(24, 0)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (partial(opt_out, phone=FIRST), AudienceSize(23, 1)),
        (partial(delete, phone=FIRST), AudienceSize(23, 0)),
        (lambda database: upsert(database, FIRST, "c"), AudienceSize(23, 0)),
        (lambda database: upsert(database, FIRST, "a", "c"), AudienceSize(23, 0)),
        (lambda database: upsert(database, FIRST, "a", "b"), AudienceSize(24, 0)),
        (lambda database: upsert(database, FIRST + 90, "b"), AudienceSize(25, 0)),
    ],
    ids=["an opt-out", "a deletion", "a change of group", "an exclusion", "another group", "a new contact"],
)
async def test_a_cached_size_follows(
    campaign_database: Database, change: Callable[[Database], Awaitable[None]], expected: AudienceSize
) -> None:
    await import_phones(campaign_database, PHONES, ["a"])
    audience = of("a", "b", exclude=("c",))
    await size(campaign_database, audience)
    await change(campaign_database)
    assert await cached_size(campaign_database, audience) == expected


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
async def test_a_cached_size_is_the_true_one_or_none_whatever_happens(campaign_database: Database, seed: int) -> None:
    random = Random(seed)

    async def change() -> str:
        phone, groups = random.choice(PHONES), random.sample(GROUPS, random.randrange(4))
        some = random.sample(PHONES, random.randrange(1, 12))
        audience = random.choice(AUDIENCES)
        changes: dict[str, Callable[[], Awaitable[object]]] = {
            "upsert": lambda: upsert(campaign_database, phone, *groups),
            "delete": lambda: delete(campaign_database, phone),
            "opt out": lambda: opt_out(campaign_database, phone),
            "opt in": lambda: opt_in(campaign_database, phone),
            "import": lambda: import_phones(campaign_database, some, groups),
            "follow": lambda: follow(campaign_database, audience),
            "count": lambda: size(campaign_database, audience),
        }
        name = random.choice(list(changes))
        await changes[name]()
        assert name != "count" or await cached_size(campaign_database, audience) is not None
        return name

    seen = []
    for _ in range(60):
        holding = [await cached_size(campaign_database, audience) is not None for audience in AUDIENCES]
        seen.append(await change())
        async with campaign_database.connect() as connection:
            truth = await true_sizes(connection)
        for number, audience in enumerate(AUDIENCES):
            kept = await cached_size(campaign_database, audience)
            assert kept in {None, truth[number]}, (audience, seen)
            assert kept is not None or not holding[number] or seen[-1] == "import", (audience, seen)
    assert [await size(campaign_database, audience) for audience in AUDIENCES] == truth


async def test_no_snapshot_ever_shows_a_cached_size_that_is_not_true(campaign_database: Database) -> None:
    """Everything at once: changes, imports, and two workers that count."""
    random, rounds = Random(7), 40
    changing = True

    async def change() -> None:
        for number in range(rounds):
            await upsert(campaign_database, random.choice(PHONES), *random.sample(GROUPS, 2))
            await opt_out(campaign_database, random.choice(PHONES))
            await opt_in(campaign_database, random.choice(PHONES))
            if number % 8 == 0:
                await import_phones(campaign_database, random.sample(PHONES, 5), random.sample(GROUPS, 2))
                await upsert(campaign_database, FIRST + 100 + number, random.choice(GROUPS))

    async def count() -> None:
        while changing:
            for audience in AUDIENCES:
                await note_use(campaign_database, audience)
            await Counting(campaign_database).work(task())

    async def look() -> int:
        held = 0
        while changing:
            async with campaign_database.connect() as connection:
                await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
                truth = await true_sizes(connection)
                driver = (await connection.get_raw_connection()).driver_connection
                for number, audience in enumerate(AUDIENCES):
                    kept = await audience_sizes.read_size(driver, TENANT, audience)
                    assert kept in {None, truth[number]}, audience
                    held += audience.is_counted and kept is not None
        return held

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        workers = [group.create_task(count()) for _ in range(2)]
        looks = group.create_task(look())
        await change()
        changing = False
    assert all(worker.done() for worker in workers)
    assert looks.result() > 0, "sizes were cached meanwhile"


def task() -> Task:
    return Task(TENANT, TaskKind.COUNT, uuid4(), 1, 0, uuid4())


async def test_a_count_is_not_outrun_by_what_changes_meanwhile(campaign_database: Database) -> None:
    await import_phones(campaign_database, PHONES, ["a"])
    audience = of("a", "b")
    await note_use(campaign_database, audience)
    await follow(campaign_database, audience)
    await opt_out(campaign_database, PHONES[0])
    async with campaign_database.begin() as connection:
        await record_opt_out(connection, PHONES[1])  # not committed when the count looks
        counting = asyncio.create_task(size(campaign_database, audience))
        await someone_waits_for_a_lock(campaign_database)
    assert await counting == AudienceSize(23, 1)
    assert await cached_size(campaign_database, audience) == AudienceSize(22, 2)


async def test_a_count_during_which_a_file_was_imported_is_not_cached_as_the_newer_one(
    campaign_database: Database,
) -> None:
    await import_phones(campaign_database, PHONES, ["a"])
    audience = of("a", "b")
    await note_use(campaign_database, audience)
    await follow(campaign_database, audience)
    async with campaign_database.begin() as connection:
        await record_opt_out(connection, PHONES[1])
        counting = asyncio.create_task(size(campaign_database, audience))
        await someone_waits_for_a_lock(campaign_database)
        importing = asyncio.create_task(import_phones(campaign_database, [FIRST + 90], ["b"]))
    await counting
    await importing
    assert await cached_size(campaign_database, audience) is None
    assert await size(campaign_database, audience) == AudienceSize(24, 1)


async def test_a_count_that_ends_late_does_not_replace_a_newer_one(campaign_database: Database) -> None:
    await import_phones(campaign_database, PHONES, ["a"])
    audience, nobody = of("a", "b"), AudienceSize(0, 0)
    await size(campaign_database, audience)

    async def store(driver: Any, counted: audience_sizes.CountedSize) -> None:
        await audience_sizes.store_size(driver, TENANT, audience, counted, await read_raw_instant(driver))

    late = audience_sizes.CountedSize(nobody, nobody, version=0, since=None, difference=nobody)
    await campaign_database.run_raw_transaction(lambda c: store(c, late))
    assert await cached_size(campaign_database, audience) == AudienceSize(24, 0)


async def someone_waits_for_a_lock(database: Database) -> None:
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with asyncio.timeout(20):
        while True:
            async with database.connect() as connection:
                if (await connection.execute(waiting)).scalar_one() > 0:
                    return


async def test_of_many_who_ask_at_once_one_counts(campaign_database: Database) -> None:
    await import_phones(campaign_database, PHONES, ["a", "b"])
    statements = statements_of(campaign_database)
    sizes = await asyncio.gather(*(size(campaign_database, of("a", "b")) for _ in range(8)))
    assert sizes == [AudienceSize(24, 0)] * 8
    assert len([statement for statement in statements if "DISTINCT phone" in statement]) == 1


async def test_counting_is_quick_on_tables_that_have_just_grown(campaign_database: Database) -> None:
    """Left to the planner, without statistics, each count takes ten seconds."""
    async with campaign_database.begin() as connection:
        await connection.execute(
            text("""
            INSERT INTO contact_groups (phone, added_at, tenant_id, group_name)
            SELECT CAST(:first AS bigint) + i, now(), :tenant, name
            FROM generate_series(0, 19999) AS i, (VALUES ('a', 1), ('b', 2), ('c', 10)) AS g (name, nth)
            WHERE i % nth = 0
            """),
            {"tenant": TENANT, "first": FIRST},
        )
    async with asyncio.timeout(8):
        for _ in range(7):  # from the sixth time on a prepared statement may be planned without its arguments
            assert await size(campaign_database, of("a", "b", exclude=("c",))) == AudienceSize(18_000, 0)
            async with campaign_database.begin() as connection:
                await connection.execute(text("DELETE FROM audience_sizes"))


async def test_a_worker_killed_before_it_counted_leaves_no_size_and_the_next_one_counts(
    campaign_database: Database,
) -> None:
    await import_phones(campaign_database, PHONES, ["a", "b"])
    audience = of("a", "b")
    assert await note_use(campaign_database, audience)
    await follow(campaign_database, audience)
    await opt_out(campaign_database, PHONES[0])
    assert await cached_size(campaign_database, audience) is None
    assert await note_use(campaign_database, audience), "still to be counted"
    await Counting(campaign_database).work(task())
    assert await cached_size(campaign_database, audience) == AudienceSize(23, 1)
    assert not await note_use(campaign_database, audience)


async def test_only_the_sizes_of_a_tenant_that_were_used_last_are_cached(campaign_database: Database) -> None:
    await import_phones(campaign_database, PHONES, ["a"])
    audiences = [of("a", f"g{number}") for number in range(audience_sizes.MAX_CACHED + 5)]
    for audience in audiences:
        await note_use(campaign_database, audience)
    async with campaign_database.connect() as connection:
        rows = (await connection.execute(text("SELECT groups[2] FROM audience_sizes ORDER BY used_at"))).scalars().all()
    assert rows == [audience.groups[1] for audience in audiences[5:]]


async def test_a_draft_is_counted_ahead_and_again_after_an_import(service: Service) -> None:
    await service.import_phones(PHONES, groups=["a", "b"])
    await service.import_phones(PHONES[:4], groups=["c"])
    audience = of("a", "b", exclude=("c",))

    async def kept(expected: AudienceSize) -> bool:
        return await cached_size(service.database, audience) == expected

    campaign = await service.create(audience=audience_message("a", "b", exclude=["c"]))
    await eventually(lambda: kept(AudienceSize(20, 0)), 20)
    await service.import_phones(PHONES[4:6], groups=["c"])
    await eventually(lambda: kept(AudienceSize(18, 0)), 20)
    await change_audience(service, campaign.campaign_id, audience_message("a", "c"))
    audience = of("a", "c")
    await eventually(lambda: kept(AudienceSize(24, 0)), 20)
    assert (await service.enqueue(campaign.campaign_id)).created == 24


async def change_audience(service: Service, campaign_id: str, audience: contacts_pb2.Audience) -> None:
    await service.campaigns.UpdateCampaign(
        campaign_pb2.UpdateCampaignRequest(
            request_id=str(uuid4()), tenant_id=TENANT, campaign_id=campaign_id, audience=audience
        )
    )


async def test_what_an_enqueue_reserves_is_what_its_snapshot_takes(service: Service) -> None:
    await service.import_phones(PHONES, groups=["a"])
    await service.import_phones(PHONES[:6], groups=["b", "c"])
    await opt_out(service.database, PHONES[-1])
    campaign = await service.create(audience=audience_message("a", "b", exclude=["c"]))
    assert (await service.enqueue(campaign.campaign_id)).created == 17
    await eventually(lambda: service.has_event(campaign.campaign_id, "SNAPSHOT_TAKEN"), 20)
    assert [int(recipient.phone) for recipient in await service.recipients(campaign.campaign_id)] == list(PHONES[6:-1])


async def test_who_joins_between_the_enqueue_and_its_snapshot_is_not_in_it_and_the_event_says_so(
    campaign_database: Database, peers: GrpcServer
) -> None:
    await import_phones(campaign_database, PHONES, ["a", "c"])
    await import_phones(campaign_database, PHONES[:6], ["b"])
    content = CampaignContent(
        name="Spring",
        text="Hello!",
        sender="Acme",
        audience=of("a", "c", exclude=("b",)),
        priority=CampaignPriority.NORMAL,
        message_class=MessageClass.MARKETING,
    )
    ledger, database = LedgerPeer(peers.address, timeout=timedelta(seconds=5)), campaign_database
    drafted = await Drafts(database, Signals(), SystemClock()).create(key_of("CreateCampaign"), "", content)
    campaign_id = drafted.campaign.campaign_id
    enqueue = Enqueue(database, ledger, Signals(), batch_size=5000)
    assert (await enqueue.run(key_of("EnqueueCampaign"), campaign_id, Step.ENQUEUE)).created == 18
    await ledger.close()
    await upsert(database, FIRST + 90, "a")
    await import_phones(database, [FIRST + 91], ["c"])
    await database.run_transaction(lambda c: take_snapshot(c, TENANT, campaign_id))
    async with database.connect() as connection:
        last = (await list_events(connection, TENANT, campaign_id, 0, 10))[-1]
    assert last.detail == "18 recipients, 2 who joined the audience after the enqueue left out"


def key_of(operation: str) -> MutationKey:
    return MutationKey.of(TENANT, uuid4(), operation, "")


async def test_an_enqueue_whose_size_is_cached_takes_ten_statements_and_counts_nothing(
    service: Service, peers: GrpcServer
) -> None:
    await service.import_phones(PHONES, groups=["a", "b"])
    campaign = await service.create(audience=audience_message("a", "b"))
    await size(service.database, of("a", "b"))
    statements = statements_of(service.database)
    ledger = LedgerPeer(peers.address, timeout=timedelta(seconds=5))
    enqueue = Enqueue(service.database, ledger, Signals(), batch_size=5000)
    campaign_id = UUID(campaign.campaign_id)
    assert (await enqueue.run(key_of("EnqueueCampaign"), campaign_id, Step.ENQUEUE)).created == 24
    await ledger.close()
    assert len(statements) <= 10
    assert not any("DISTINCT phone" in statement for statement in statements)


def statements_of(database: Database) -> list[str]:
    """What is executed on this database from now on, on connections not checked out yet."""
    statements: list[str] = []
    logged: set[int] = set()

    def log(connection: Any, _record: Any, _proxy: Any) -> None:
        if id(connection.driver_connection) not in logged:
            logged.add(id(connection.driver_connection))
            connection.driver_connection.add_query_logger(lambda query: statements.append(query.query))

    event.listen(database.engine.sync_engine, "checkout", log)
    return statements
