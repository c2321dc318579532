"""What could not go out by its `not_after` is never sent, and fails with that reason."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import text

from bulksms.dispatcher.v1 import dispatch_pb2, queue_pb2
from bulksms_dispatcher.domain.protocol import BatchState
from bulksms_dispatcher.domain.recipients import Recipients
from bulksms_dispatcher.domain.submissions import Submission
from bulksms_dispatcher.metrics import Metrics
from bulksms_dispatcher.storage import campaigns, submissions
from bulksms_dispatcher.workers.late_batches import LateBatches
from devstack.eventually import eventually
from servicekit.database import Database

from .dispatcher_support import (
    ACCOUNT,
    TENANT,
    Dispatcher,
    Peers,
    Provider,
    chunks,
    header,
    phones,
    reason_of,
    stream,
    submit,
    why,
)
from .test_dispatcher_queue import arm, claim, must_claim, reported, state_of

SECOND = timedelta(seconds=1)


def at(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def soon(seconds: float = 3600) -> Timestamp:
    return at(datetime.now(UTC) + timedelta(seconds=seconds))


async def store(database: Database, not_after: datetime | None, batches: int = 1) -> Submission:
    """A campaign's submission of batches of three that are not to be sent after that."""
    identity = uuid.uuid4(), TENANT, uuid.uuid4(), 1, uuid.uuid4()
    submission = replace(
        Submission(*identity, "Hello", (), "Astronote", 2, "", b"who stands where"), not_after=not_after
    )
    async with database.begin() as connection:
        await campaigns.ensure(connection, TENANT, submission.campaign_id)
        await submissions.insert(connection, submission)
        for number in range(batches):
            people = Recipients(phones(3, first=306_900_000_000 + 3 * number))
            await submissions.insert_batch(connection, submission, number, people)
    return submission


def late_batches(database: Database, on_failed: Callable[[], None]) -> LateBatches:
    return LateBatches(database, Metrics(), on_failed, traffic_account_id=ACCOUNT, outage_patience=timedelta(hours=6))


async def let_pass(database: Database) -> None:
    """The time of every batch that has one is over."""
    async with database.begin() as connection:
        await connection.execute(text("UPDATE batches SET not_after = clock_timestamp() - interval '1 second'"))


async def test_a_batch_whose_time_is_over_is_neither_claimed_nor_armed(database: Database) -> None:
    submission = await store(database, datetime.now(UTC) + timedelta(hours=1), batches=2)
    held = await must_claim(database, submission)
    await let_pass(database)
    assert await claim(database, submission) is None
    assert not await arm(database, held)


async def test_a_batch_with_time_left_or_without_an_end_is_armed(database: Database) -> None:
    for not_after in (None, datetime.now(UTC) + timedelta(hours=1)):
        assert await arm(database, await must_claim(database, await store(database, not_after)))


async def test_late_batches_fail_once_and_what_a_worker_has_is_left_to_it(database: Database) -> None:
    submission = await store(database, datetime.now(UTC) + timedelta(hours=1), batches=3)
    held = await must_claim(database, submission)
    await let_pass(database)
    others = await store(database, datetime.now(UTC) + timedelta(hours=1))
    calls: list[str] = []
    late = late_batches(database, lambda: calls.append("failed"))
    assert not await late.fail_once()
    assert not await late.fail_once()
    assert calls == ["failed"]
    assert await reported(database) == [(1, BatchState.DEAD)] * 2
    assert await state_of(database, held) == (BatchState.LEASED, 0)
    assert (await must_claim(database, others)).recipients == 3


async def test_what_is_not_sent_in_time_fails_as_too_late_and_is_never_sent(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    head = header(not_after=soon(2))
    await dispatcher.pause(head)
    await submit(dispatcher, phones(25), head)
    await eventually(lambda: peers.campaign.outcomes == {"FAILED": 25})
    await dispatcher.resume(head)
    batches = await dispatcher.batches()
    assert {(batch.state, why(batch)) for batch in batches} == {(queue_pb2.BATCH_STATE_DEAD, "TOO_LATE")}
    assert simulator.times_accepted() == {}


async def test_what_is_sent_in_time_is_sent(dispatcher: Dispatcher, simulator: Provider, peers: Peers) -> None:
    await submit(dispatcher, phones(25), header(not_after=soon()))
    await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 25})
    assert simulator.times_accepted() == {1: 25}


async def test_a_stream_with_another_end_is_another_submission(dispatcher: Dispatcher) -> None:
    head = await submit(dispatcher, phones(5), header(not_after=soon()))
    later = dispatch_pb2.SubmissionHeader()
    later.CopyFrom(head)
    later.not_after.CopyFrom(soon(7200))
    with pytest.raises(grpc.aio.AioRpcError) as conflict:
        await dispatcher.dispatch.Submit(stream(later, chunks(phones(5)), 5))
    assert reason_of(conflict.value) == "SUBMISSION_CONFLICT"
    wrong = header(not_after=Timestamp(seconds=1 << 60))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await dispatcher.dispatch.Submit(stream(wrong, [], 0))
    assert reason_of(refused.value) == "INVALID_ARGUMENT"


async def test_a_late_single_message_fails_and_its_credit_is_asked_back(database: Database) -> None:
    message_id = uuid.uuid4()
    single = Submission(
        message_id, TENANT, uuid.UUID(int=0), 0, uuid.uuid4(), "Hi", (), "Astronote", 3, "", message_id.bytes,
        not_after=datetime.now(UTC) - SECOND,
    )  # fmt: skip
    async with database.begin() as connection:
        await connection.execute(
            text("""
            INSERT INTO messages (message_id, tenant_id, phone, sender, message_class, fingerprint, parts)
            VALUES (:message_id, :tenant_id, 306900000000, 'Astronote', 2, '', 1)
            """),
            {"message_id": message_id, "tenant_id": TENANT},
        )
        await submissions.insert(connection, single)
        await submissions.insert_batch(connection, single, 0, Recipients([306_900_000_000]))
    await late_batches(database, lambda: None).fail_once()
    async with database.connect() as connection:
        found = (await connection.execute(text("SELECT status, reason FROM messages"))).one()
    assert tuple(found) == (4, "TOO_LATE")
    assert await reported(database) == [(3, BatchState.DEAD)]
