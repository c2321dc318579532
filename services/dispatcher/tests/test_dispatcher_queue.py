"""The queue on its table: claims, arming, leases and the reaper, by compare-and-set."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from sqlalchemy import text

from bulksms_dispatcher.app import MIGRATIONS
from bulksms_dispatcher.domain.authorizations import authorization_of, void_of
from bulksms_dispatcher.domain.batch_outcomes import AttemptResult, BatchOutcome, Return, StoredResponse
from bulksms_dispatcher.domain.batches import Lane, LeasedBatch
from bulksms_dispatcher.domain.protocol import BatchState, OutcomeKind
from bulksms_dispatcher.domain.rate_limits import Limits
from bulksms_dispatcher.domain.recipients import Recipients, pack_positions
from bulksms_dispatcher.domain.results import RecipientOutcome, decode_groups, whole
from bulksms_dispatcher.domain.retries import RetryPolicy
from bulksms_dispatcher.domain.submissions import Submission, SubmissionProgress
from bulksms_dispatcher.metrics import Metrics
from bulksms_dispatcher.pacing.limiter import Limiter
from bulksms_dispatcher.storage import attempts, campaigns, claims, opt_outs, outcomes, queue, submissions
from bulksms_dispatcher.workers.reaper import Reaper
from bulksms_dispatcher.workers.recorder import Recorder
from devstack.ledger_stand_in import LedgerStandIn
from devstack.postgres import EmbeddedPostgres
from servicekit import errors, migrations
from servicekit.clock import ManualClock, SystemClock
from servicekit.database import Database
from servicekit.lifecycle import running
from servicekit.worker import PeriodicWorker

from .dispatcher_support import ACCOUNT, TENANT, ledger_peer

LEASE = timedelta(seconds=60)
HORIZON = timedelta(hours=72)
READY, LEASED, ARMED, AMBIGUOUS = BatchState.READY, BatchState.LEASED, BatchState.ARMED, BatchState.AMBIGUOUS


@pytest.fixture
async def database(dispatcher_url: str) -> AsyncIterator[Database]:
    opened = Database(dispatcher_url, application_name="test", pool_size=12)
    yield opened
    await opened.stop()


@pytest.fixture
def ledger() -> LedgerStandIn:
    return LedgerStandIn()


@pytest.fixture
def reaper(database: Database, ledger: LedgerStandIn) -> Reaper:
    return Reaper(database, ledger_peer(ledger), HORIZON, lambda: None, grace=timedelta(0), clock=ManualClock())


async def store(
    database: Database, batches: int, *, tenant: str = TENANT, priority: int = 2, size: int = 3
) -> Submission:
    """A campaign's submission of so many batches."""
    identity = uuid.uuid4(), tenant, uuid.uuid4(), 1, uuid.uuid4()
    submission = Submission(*identity, "Hello", (), "Astronote", priority, "", b"who stands where")
    async with database.begin() as connection:
        await campaigns.ensure(connection, tenant, submission.campaign_id)
        await submissions.insert(connection, submission)
        for number in range(batches):
            first = 306_900_000_000 + number * size
            recipients = Recipients(range(first, first + size), first_index=number * size)
            await submissions.insert_batch(connection, submission, number, recipients)
        await submissions.save_progress(
            connection,
            submission,
            SubmissionProgress(batches * size, first + size - 1, batches, complete=True),
        )
    return submission


def lane_of(submission: Submission) -> Lane:
    return Lane(submission.priority, submission.tenant_id, submission.campaign_id)


async def claim(database: Database, submission: Submission, worker: str = "w") -> LeasedBatch | None:
    async with database.begin() as connection:
        batch = await claims.claim(connection, lane_of(submission), worker, LEASE, account=ACCOUNT)
    return None if batch is None else replace(batch, attempt_id=uuid.uuid4())


async def must_claim(database: Database, submission: Submission, worker: str = "w") -> LeasedBatch:
    batch = await claim(database, submission, worker)
    assert batch is not None
    return batch


async def arm(database: Database, batch: LeasedBatch, worker: str = "w", **changes: Any) -> bool:
    values: dict[str, Any] = {
        "opt_out_version": 0,
        "opted_out_positions": None,
        "traceparent": "",
    } | changes
    async with database.begin() as connection:
        return await claims.arm(connection, batch.key, worker, account=ACCOUNT, lease=LEASE, **values)


async def authorize(ledger: LedgerStandIn, batch: LeasedBatch) -> None:
    assert await ledger_peer(ledger).authorize(authorization_of(batch, ())) is None


async def record(database: Database, batch: LeasedBatch, origin: BatchState, target: BatchState, **values: Any) -> bool:
    outcome = {BatchState.ACCEPTED: RecipientOutcome.ACCEPTED, AMBIGUOUS: RecipientOutcome.AMBIGUOUS}[target]
    outcome = BatchOutcome(target, whole(outcome), attempt=AttemptResult(OutcomeKind.ACCEPTED), **values)
    async with database.begin() as connection:
        return await outcomes.record(connection, batch.key, (origin,), outcome)


async def expire(database: Database) -> None:
    async with database.begin() as connection:
        await connection.execute(
            text("UPDATE batches SET lease_until = clock_timestamp() - interval '1 second' WHERE state IN (2, 3)")
        )


async def state_of(database: Database, batch: LeasedBatch) -> tuple[BatchState, int]:
    async with database.connect() as connection:
        record = await queue.find_batch(connection, batch.batch_id, ACCOUNT)
    assert record is not None
    return record.state, record.epoch


async def reported(database: Database) -> list[tuple[int, int]]:
    """(kind, state) of every outbox entry."""
    async with database.connect() as connection:
        rows = await connection.execute(text("SELECT kind, state FROM outbox ORDER BY outbox_id"))
        return [(row.kind, row.state) for row in rows]


async def test_no_batch_is_claimed_by_two(database: Database) -> None:
    submission = await store(database, 40)

    async def drain(worker: str) -> list[uuid.UUID]:
        claimed = []
        while (batch := await claim(database, submission, worker)) is not None:
            claimed.append(batch.batch_id)
        return claimed

    claimed = await asyncio.gather(*(drain(f"w{n}") for n in range(8)))
    assert Counter(batch_id for one in claimed for batch_id in one) == Counter(
        {batch_id: 1 for one in claimed for batch_id in one}
    )
    assert sum(map(len, claimed)) == 40


async def test_batches_of_a_lane_are_claimed_in_their_order(database: Database) -> None:
    submission = await store(database, 3)
    assert [(await must_claim(database, submission)).number for _ in range(3)] == [0, 1, 2]


async def test_lanes_are_listed_urgent_first_and_without_paused_ones(database: Database) -> None:
    low = await store(database, 2, priority=1)
    urgent = await store(database, 2, priority=3, tenant="zeta")
    paused = await store(database, 2)
    async with database.begin() as connection:
        await campaigns.set_paused(connection, TENANT, paused.campaign_id, paused=True)
    async with database.connect() as connection:
        lanes = await claims.read_lanes(connection, ACCOUNT)
    assert [state.lane for state in lanes] == [lane_of(urgent), lane_of(low)]
    assert all(state.due_in_seconds <= 0 for state in lanes)
    assert await claim(database, paused) is None


async def test_a_batch_that_waits_says_when_it_is_due(database: Database) -> None:
    submission = await store(database, 1)
    batch = await must_claim(database, submission)
    async with database.begin() as connection:
        assert await outcomes.return_to_queue(
            connection, batch.key, batch.campaign_id, (LEASED,), Return(timedelta(seconds=30))
        )
    assert await claim(database, submission) is None
    async with database.connect() as connection:
        (state,) = await claims.read_lanes(connection, ACCOUNT)
    assert 25 < state.due_in_seconds <= 30


async def test_only_the_holder_of_the_lease_arms_and_only_once(database: Database) -> None:
    submission = await store(database, 1)
    batch = await must_claim(database, submission)
    assert not await arm(database, batch, worker="somebody else")
    assert await arm(database, batch)
    assert not await arm(database, batch)


async def test_an_opt_out_after_the_numbers_were_checked_stops_the_arming(database: Database) -> None:
    submission = await store(database, 1)
    batch = await must_claim(database, submission)
    async with database.begin() as connection:
        await opt_outs.add(connection, TENANT, [306_900_000_000])
    assert not await arm(database, batch)
    async with database.connect() as connection:
        found = await opt_outs.find(connection, TENANT, [306_900_000_000, 306_900_000_001])
    assert found.phones == {306_900_000_000}
    assert await arm(database, batch, opt_out_version=found.version)


async def test_an_opt_out_of_a_number_that_is_not_in_the_range_of_a_batch_does_not_stop_its_arming(
    database: Database,
) -> None:
    submission = await store(database, 2)
    first, second = await must_claim(database, submission), await must_claim(database, submission)
    async with database.begin() as connection:
        await opt_outs.add(connection, "somebody else", list(range(first.first_phone, second.last_phone + 1)))
        await opt_outs.add(connection, TENANT, [first.first_phone - 1, second.first_phone, second.last_phone + 1])
    assert await arm(database, first)
    assert not await arm(database, second)


async def test_a_number_that_may_be_written_to_again_stops_no_arming_and_its_next_opt_out_does(
    database: Database,
) -> None:
    submission = await store(database, 2)
    first, second = await must_claim(database, submission), await must_claim(database, submission)
    for batch in (first, second):
        async with database.begin() as connection:
            await opt_outs.add(connection, TENANT, [batch.last_phone])
            await opt_outs.remove(connection, TENANT, [batch.last_phone])
    assert await arm(database, first)
    async with database.connect() as connection:
        found = await opt_outs.find(connection, TENANT, [second.first_phone, second.last_phone])
    assert found.phones == frozenset()
    async with database.begin() as connection:
        await opt_outs.add(connection, TENANT, [second.last_phone])
    assert not await arm(database, second, opt_out_version=found.version)


async def test_a_pause_after_the_claim_stops_the_arming_and_the_batch_waits_without_costing_an_attempt(
    database: Database,
) -> None:
    submission = await store(database, 1)
    batch = await must_claim(database, submission)
    await set_paused(database, submission, paused=True)
    assert not await arm(database, batch)
    async with database.begin() as connection:
        assert await outcomes.return_to_queue(connection, batch.key, batch.campaign_id, (LEASED,))
    assert await claim(database, submission) is None
    await set_paused(database, submission, paused=False)
    again = await must_claim(database, submission)
    assert (again.batch_id, again.epoch, again.attempts, again.retries) == (batch.batch_id, batch.epoch + 1, 0, 0)
    assert await arm(database, again)


async def test_a_cancel_after_the_claim_stops_the_arming_and_the_batch_is_cancelled(database: Database) -> None:
    submission = await store(database, 1)
    batch = await must_claim(database, submission)
    async with database.begin() as connection:
        await campaigns.cancel(connection, TENANT, submission.campaign_id)
    assert not await arm(database, batch)
    assert (await state_of(database, batch))[0] is BatchState.CANCELLED


async def test_arms_that_race_with_a_pause_or_a_cancel_either_come_first_or_send_nothing(database: Database) -> None:
    for stop in ("pause", "cancel"):
        submission = await store(database, 10)
        batches = [await must_claim(database, submission) for _ in range(10)]

        async def stopping(submission: Submission, stop: str) -> int:
            if stop == "pause":
                await set_paused(database, submission, paused=True)
                return 0
            async with database.begin() as connection:
                return (await campaigns.cancel(connection, TENANT, submission.campaign_id)).in_flight

        arms = [arm(database, batch) for batch in batches]
        *first, in_flight, _ = await asyncio.gather(*arms[:5], stopping(submission, stop), asyncio.sleep(0))
        second = await asyncio.gather(*arms[5:])
        assert second == [False] * 5, "once it is committed, nothing is armed"
        states = [(await state_of(database, batch))[0] for batch in batches]
        assert [state is ARMED for state in states] == [*first, *second]
        if stop == "cancel":
            assert {state for state in states if state is not ARMED} == {BatchState.CANCELLED}
            assert in_flight == sum(first)


async def test_a_request_rendered_while_numbers_opt_out_is_never_armed_with_one_of_them(database: Database) -> None:
    """Whoever is first: the arm fails, the number was seen before the rendering, or it came after the arm."""
    submission = await store(database, 20)

    async def opt_out(phone: int) -> float:
        async with database.begin() as connection:
            await opt_outs.add(connection, TENANT, [phone])
        return await now(database)

    async def render_and_arm(batch: LeasedBatch) -> tuple[bool, bool, float]:
        numbers = [batch.first_phone, batch.last_phone]
        async with database.autocommit() as connection:
            found = await opt_outs.find(connection, TENANT, numbers)
        asked_at = await now(database)
        armed = await arm(database, batch, opt_out_version=found.version)
        return armed, bool(found.phones), asked_at

    for _ in range(20):
        batch = await must_claim(database, submission)
        committed_at, (armed, seen, asked_at) = await asyncio.gather(opt_out(batch.first_phone), render_and_arm(batch))
        assert seen or not armed or committed_at > asked_at


async def test_versions_of_a_tenant_s_opt_outs_become_visible_in_their_order(database: Database) -> None:
    """Or an arm that knows of a later one would overlook the earlier one."""

    async def opt_out(phone: int) -> None:
        async with database.begin() as connection:
            await opt_outs.add(connection, TENANT, [phone])

    async with database.begin() as earlier:
        await opt_outs.add(earlier, TENANT, [1])
        later = asyncio.create_task(opt_out(2))
        done, _ = await asyncio.wait({later}, timeout=0.2)
        assert not done
        async with database.connect() as connection:
            assert (await opt_outs.find(connection, TENANT, [1, 2])).version == 0
    await later
    async with database.connect() as connection:
        found = await opt_outs.find(connection, TENANT, [1, 2])
    assert (found.version, found.phones) == (2, {1, 2})


async def now(database: Database) -> float:
    async with database.autocommit() as connection:
        return float((await connection.execute(text("SELECT extract(epoch FROM clock_timestamp())"))).scalar_one())


async def set_paused(database: Database, submission: Submission, *, paused: bool) -> None:
    async with database.begin() as connection:
        await campaigns.set_paused(connection, TENANT, submission.campaign_id, paused=paused)


async def test_an_expired_lease_goes_back_under_a_new_epoch_and_the_old_holder_can_do_nothing(
    database: Database, reaper: Reaper
) -> None:
    submission = await store(database, 1)
    zombie = await must_claim(database, submission)
    await expire(database)
    await reaper.reap_once()
    assert await state_of(database, zombie) == (READY, zombie.epoch + 1)
    assert not await arm(database, zombie)
    successor = await must_claim(database, submission, "successor")
    assert not await arm(database, zombie)
    assert await arm(database, successor, "successor")
    assert not await record(database, zombie, ARMED, BatchState.ACCEPTED)
    assert await reported(database) == []


async def test_an_expired_armed_batch_becomes_ambiguous_and_a_late_response_resolves_it(
    database: Database, reaper: Reaper, ledger: LedgerStandIn
) -> None:
    submission = await store(database, 1)
    batch = await must_claim(database, submission)
    await arm(database, batch, opted_out_positions=pack_positions([1]))
    await authorize(ledger, batch)
    await expire(database)
    await asyncio.gather(*(reaper.reap_once() for _ in range(4)))
    assert await state_of(database, batch) == (AMBIGUOUS, batch.epoch)
    assert await reported(database) == [(1, AMBIGUOUS)]
    async with database.connect() as connection:
        groups = decode_groups((await connection.execute(text("SELECT groups FROM outbox"))).scalar_one())
    assert [(group.outcome, group.positions) for group in groups] == [
        (RecipientOutcome.AMBIGUOUS, None),
        (RecipientOutcome.OPTED_OUT, (1,)),
    ]

    response = StoredResponse(200, "bulk", ["a", "b"])
    assert await record(database, batch, AMBIGUOUS, BatchState.ACCEPTED, response=response)
    assert not await record(database, batch, AMBIGUOUS, BatchState.ACCEPTED, response=response)
    assert await reported(database) == [(1, AMBIGUOUS), (1, BatchState.ACCEPTED), (2, BatchState.ACCEPTED)]


async def test_an_expired_armed_batch_that_was_never_authorized_is_ready_and_its_attempt_never_sends(
    database: Database, reaper: Reaper, ledger: LedgerStandIn
) -> None:
    submission = await store(database, 2)
    never, void = await must_claim(database, submission), await must_claim(database, submission)
    for batch in (never, void):
        await arm(database, batch)
    await authorize(ledger, void)
    assert await ledger_peer(ledger).void(void_of(void)) == ""
    await expire(database)
    await asyncio.gather(*(reaper.reap_once() for _ in range(4)))
    for batch in (never, void):
        assert await state_of(database, batch) == (READY, batch.epoch + 1)
        late = await ledger_peer(ledger).authorize(authorization_of(batch, ()))
        assert late is not None, "a frozen worker that thaws is refused"
        assert late.reason == "ATTEMPT_ENDED"


async def test_while_the_ledger_is_away_an_expired_armed_batch_stays_as_it_is(
    database: Database, reaper: Reaper, ledger: LedgerStandIn
) -> None:
    submission = await store(database, 2)
    armed, leased = await must_claim(database, submission), await must_claim(database, submission)
    await arm(database, armed)
    await expire(database)
    ledger.before_response = is_away
    await reaper.reap_once()
    assert (await state_of(database, armed))[0] is ARMED
    assert (await state_of(database, leased))[0] is READY, "of a lease there is nothing to ask"
    ledger.before_response = None
    await reaper.reap_once()
    assert (await state_of(database, armed))[0] is READY


async def is_away(method: str) -> None:
    raise errors.unavailable("LEDGER_AWAY", f"{method} is not answered.")


async def test_an_armed_batch_is_changed_only_under_the_attempt_that_armed_it(database: Database) -> None:
    """A database that was set back repeats epochs; attempts are never repeated."""
    submission = await store(database, 1)
    batch = await must_claim(database, submission)
    await arm(database, batch)
    other = replace(batch, attempt_id=uuid.uuid4())
    assert not await record(database, other, ARMED, AMBIGUOUS)
    async with database.begin() as connection:
        assert not await outcomes.return_to_queue(connection, other.key, batch.campaign_id, (ARMED,))
    assert await record(database, batch, ARMED, AMBIGUOUS)
    assert not await record(database, other, AMBIGUOUS, BatchState.ACCEPTED, response=StoredResponse(200, "b", ["a"]))


async def test_a_lease_that_has_time_left_is_not_touched(database: Database, reaper: Reaper) -> None:
    submission = await store(database, 2)
    leased, armed = await must_claim(database, submission), await must_claim(database, submission)
    await arm(database, armed)
    await reaper.reap_once()
    assert (await state_of(database, leased))[0] is LEASED
    assert (await state_of(database, armed))[0] is ARMED


@pytest.fixture
async def outage(tmp_path: Path) -> AsyncIterator[tuple[EmbeddedPostgres, Database]]:
    """A server of this test's own, to be killed and started, with a migrated database."""
    server = EmbeddedPostgres(tmp_path / "postgres", fsync=False)
    server.start()
    try:
        await migrations.upgrade(server.url, MIGRATIONS)
        database = Database(server.url, application_name="test", pool_size=4)
        yield server, database
        await database.stop()
    finally:
        server.remove()


@pytest.fixture
def recorder_of(redis: Redis, redis_key_prefix: str, ledger: LedgerStandIn) -> Callable[[Database], Recorder]:
    limiter = Limiter(redis, key_prefix=redis_key_prefix, traffic_account_id="account", limits=lambda: Limits({}))
    return lambda database: Recorder(
        database,
        ledger_peer(ledger),
        limiter,
        Metrics(),
        worker="w",
        retry_policy=RetryPolicy(),
        account_pause=timedelta(seconds=1),
        on_recorded=lambda _batch: None,
        on_returned=lambda _batch, _delay: None,
    )


async def test_who_sent_nothing_gets_the_batch_back_after_an_outage_longer_than_the_lease(
    outage: tuple[EmbeddedPostgres, Database], recorder_of: Callable[[Database], Recorder], ledger: LedgerStandIn
) -> None:
    server, database = outage
    submission = await store(database, 2)
    # Both arms are committed. The confirmation of the first was lost, the worker of the second died.
    live, dead = await must_claim(database, submission), await must_claim(database, submission)
    for batch in (live, dead):
        assert await arm(database, batch)
        await authorize(ledger, batch)
    await expire(database)
    reaper = Reaper(
        database, ledger_peer(ledger), HORIZON, lambda: None, grace=timedelta(seconds=6), clock=SystemClock()
    )
    quick = timedelta(milliseconds=100)
    await asyncio.to_thread(server.kill)
    handing_back = asyncio.create_task(recorder_of(database).hand_back_unsent(live, ()))
    async with running([PeriodicWorker("reaper", quick, reaper.reap_once, max_pause=quick)]), asyncio.timeout(60):
        await asyncio.to_thread(server.start)
        await handing_back
        assert await state_of(database, live) == (READY, live.epoch + 1)
        assert (await state_of(database, dead))[0] is ARMED
        while (await state_of(database, dead))[0] is ARMED:  # noqa: ASYNC110 - another task's work
            await asyncio.sleep(0.1)
    assert (await state_of(database, dead))[0] is AMBIGUOUS


async def test_a_reaper_that_could_not_reach_the_database_for_long_waits_before_it_expires_an_arm(
    database: Database, ledger: LedgerStandIn
) -> None:
    clock, grace = ManualClock(), timedelta(seconds=1)
    reaper = Reaper(database, ledger_peer(ledger), HORIZON, lambda: None, grace=grace, clock=clock)
    submission = await store(database, 2)
    armed, leased = await must_claim(database, submission), await must_claim(database, submission)
    await arm(database, armed)
    await authorize(ledger, armed)
    await expire(database)
    clock.advance(timedelta(seconds=1.5))
    await reaper.reap_once()
    assert (await state_of(database, armed))[0] is ARMED
    assert (await state_of(database, leased))[0] is READY, "of a lease nobody has anything to report"
    clock.advance(grace)
    await reaper.reap_once()
    assert (await state_of(database, armed))[0] is AMBIGUOUS


async def test_when_the_reaper_was_first_what_was_not_sent_is_refused_and_never_sent(
    database: Database, reaper: Reaper, recorder_of: Callable[[Database], Recorder], ledger: LedgerStandIn
) -> None:
    submission = await store(database, 1)
    batch = await must_claim(database, submission)
    await arm(database, batch, opted_out_positions=pack_positions([1]))
    await authorize(ledger, batch)
    await expire(database)
    await reaper.reap_once()
    assert (await state_of(database, batch))[0] is AMBIGUOUS
    await recorder_of(database).hand_back_unsent(batch, (1,))
    assert await state_of(database, batch) == (BatchState.REJECTED, batch.epoch)
    async with database.connect() as connection:
        rows = (await connection.execute(text("SELECT groups FROM outbox ORDER BY outbox_id"))).scalars().all()
        made = await attempts.list_all(connection, batch.batch_id)
    assert [(group.outcome, group.positions) for group in decode_groups(rows[-1])] == [
        (RecipientOutcome.FAILED, None),
        (RecipientOutcome.OPTED_OUT, (1,)),
    ]
    assert [(attempt.outcome, attempt.reason) for attempt in made] == [("NOT_SENT", "NOT_SENT")]


async def test_time_alone_turns_ambiguous_into_unresolved_and_never_into_ready(
    database: Database, reaper: Reaper
) -> None:
    submission = await store(database, 2)
    old, young = await must_claim(database, submission), await must_claim(database, submission)
    for batch in (old, young):
        await arm(database, batch)
        await record(database, batch, ARMED, AMBIGUOUS)
    async with database.begin() as connection:
        await connection.execute(
            text("UPDATE batches SET updated_at = now() - interval '73 hours' WHERE batch_id = :id"),
            {"id": old.batch_id},
        )
    await reaper.reap_once()
    assert (await state_of(database, old))[0] is BatchState.UNRESOLVED
    assert (await state_of(database, young))[0] is AMBIGUOUS
    assert (1, BatchState.UNRESOLVED) in await reported(database)


async def test_a_cancel_and_a_batch_coming_back_at_the_same_time_leave_nothing_ready(database: Database) -> None:
    submission = await store(database, 20)
    armed = [await must_claim(database, submission) for _ in range(20)]
    for batch in armed:
        await arm(database, batch)

    async def come_back(batch: LeasedBatch) -> None:
        async with database.begin() as connection:
            await outcomes.return_to_queue(connection, batch.key, batch.campaign_id, (ARMED,))

    async def cancel() -> None:
        async with database.begin() as connection:
            await campaigns.cancel(connection, TENANT, submission.campaign_id)

    await asyncio.gather(*map(come_back, armed[:10]), cancel(), *map(come_back, armed[10:]))
    assert {(await state_of(database, batch))[0] for batch in armed} == {BatchState.CANCELLED}
    assert await reported(database) == [(1, BatchState.CANCELLED)] * 20


async def test_a_batch_that_comes_back_after_the_cancel_is_cancelled_with_its_news(database: Database) -> None:
    submission = await store(database, 1)
    batch = await must_claim(database, submission)
    assert await arm(database, batch)
    async with database.begin() as connection:
        await campaigns.cancel(connection, TENANT, submission.campaign_id)
    assert (await state_of(database, batch))[0] is ARMED
    async with database.begin() as connection:
        assert await outcomes.return_to_queue(connection, batch.key, batch.campaign_id, (ARMED,))
    assert await state_of(database, batch) == (BatchState.CANCELLED, batch.epoch + 1)
    assert await reported(database) == [(1, BatchState.CANCELLED)]


async def test_the_migrated_schema_is_what_the_claims_are_indexed_by(database: Database) -> None:
    submission = await store(database, 1)
    async with database.connect() as connection:
        await connection.execute(text("SET LOCAL enable_seqscan = off"))
        plan = await connection.execute(
            text(
                "EXPLAIN SELECT batch_id FROM batches WHERE state = 1 AND priority = 2 AND tenant_id = 'acme'"
                f" AND campaign_id = '{submission.campaign_id}' AND not_before <= now()"
                " ORDER BY not_before, seq LIMIT 1"
            )
        )
        lines = "\n".join(plan.scalars())
    assert "batches_claim" in lines
    assert "Sort" not in lines


async def test_an_arm_finds_newer_opt_outs_by_their_version_however_many_numbers_of_its_range_have_opted_out(
    database: Database,
) -> None:
    submission = await store(database, 1)
    batch = await must_claim(database, submission)
    async with database.begin() as connection:
        await opt_outs.add(connection, TENANT, range(306_900_000_100, 306_900_020_100))
        await connection.execute(text("ANALYZE opt_outs"))
    parameters = batch.key.parameters() | {"worker": "w", "account": ACCOUNT, "lease_seconds": 60.0, "probe_id": None}
    async with database.connect() as connection:
        plan = await connection.execute(
            text(f"EXPLAIN {claims._ARM}"),
            parameters | {"opt_out_version": 1, "opted_out_positions": None, "traceparent": ""},
        )
        lines = "\n".join(plan.scalars())
    assert "opt_outs_newer" in lines
    assert "Seq Scan on opt_outs" not in lines
    assert "opt_outs_pkey" not in lines
