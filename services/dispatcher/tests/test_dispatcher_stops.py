"""Stop and go: an operator's order that nothing be sent holds at once, for everything it names and nothing else."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import grpc
import pytest
from sqlalchemy import text

from bulksms.dispatcher.v1 import messages_pb2, queue_pb2
from bulksms.types.v1 import types_pb2
from bulksms_dispatcher.domain.batches import Lane
from bulksms_dispatcher.settings import Settings
from bulksms_dispatcher.storage import claims, stops
from devstack.eventually import eventually
from servicekit.database import Database

from .dispatcher_support import (
    ACCOUNT,
    TENANT,
    Dispatcher,
    Peers,
    Provider,
    arm_as,
    header,
    phones,
    reason_of,
    serving,
    submit,
    why,
)
from .test_dispatcher_queue_watch import gauges

MARKETING, SERVICE = types_pb2.MESSAGE_CLASS_MARKETING, types_pb2.MESSAGE_CLASS_SERVICE
LEASE = timedelta(seconds=60)
TENANT_STOP: dict[str, Any] = {"scope": queue_pb2.STOP_SCOPE_TENANT, "key": TENANT}
EVERYTHING: dict[str, Any] = {"scope": queue_pb2.STOP_SCOPE_ALL}


def order(**changes: Any) -> dict[str, Any]:
    return {"request_id": str(uuid.uuid4()), "reason": "complaints"} | changes


async def stop(dispatcher: Dispatcher, **changes: Any) -> queue_pb2.StopSendingResponse:
    return await dispatcher.queue.StopSending(queue_pb2.StopSendingRequest(**order(**changes)))


async def go(dispatcher: Dispatcher, **changes: Any) -> list[queue_pb2.Stop]:
    response = await dispatcher.queue.ResumeSending(queue_pb2.ResumeSendingRequest(**order(**changes)))
    return list(response.stops)


async def send_single(dispatcher: Dispatcher, phone: int, **changes: Any) -> messages_pb2.Message:
    """With a caller who does not wait long for what is stopped."""
    values: dict[str, Any] = {
        "request_id": str(uuid.uuid4()),
        "tenant_id": TENANT,
        "phone": f"+{phone}",
        "text": "4711",
        "sender": "Shop",
    }
    request = messages_pb2.SendMessageRequest(**values | changes)
    return (await dispatcher.messages.SendMessage(request, timeout=2)).message


async def test_what_a_stopped_tenant_has_waits_and_says_so_and_goes_out_when_sending_goes_on(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers, database: Database
) -> None:
    stopped = (await stop(dispatcher, **TENANT_STOP)).stop
    assert (stopped.scope, stopped.key, stopped.reason) == (queue_pb2.STOP_SCOPE_TENANT, TENANT, "complaints")
    head = await submit(dispatcher, phones(20))
    await submit(dispatcher, phones(10, first=447_700_900_000), header(tenant_id="other"))
    await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 10})

    batches = await dispatcher.batches(tenant_id=TENANT)
    assert [(batch.state, why(batch)) for batch in batches] == [(queue_pb2.BATCH_STATE_READY, "STOPPED")] * 2
    held = await dispatcher.hold(head)
    assert (held.reason, held.description) == (types_pb2.HOLD_REASON_STOPPED, "complaints")
    assert held.since == stopped.stopped_at
    stats = await dispatcher.queue.GetQueueStats(queue_pb2.GetQueueStatsRequest())
    assert list(stats.stops) == [stopped]
    assert not stats.HasField("oldest_ready_age")  # what is stopped may not be claimed
    assert (await gauges(database))["dispatcher.stops"] == 1
    others = await dispatcher.queue.GetQueueStats(queue_pb2.GetQueueStatsRequest(tenant_id="other"))
    assert list(others.stops) == []

    assert await go(dispatcher, **TENANT_STOP) == []
    await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 30})
    assert simulator.times_accepted() == {1: 30}
    assert (await dispatcher.hold(head)).reason == types_pb2.HOLD_REASON_UNSPECIFIED


async def test_a_stop_holds_for_single_messages_too_and_one_of_a_class_lets_the_other_class_go(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    await stop(dispatcher, **EVERYTHING, message_class=MARKETING)
    offer = await send_single(dispatcher, 491_510_000_001, message_class=MARKETING)
    assert messages_pb2.MessageStatus.Name(offer.status) == "MESSAGE_STATUS_QUEUED"
    code = await send_single(dispatcher, 491_510_000_002, message_class=SERVICE)
    assert messages_pb2.MessageStatus.Name(code.status) == "MESSAGE_STATUS_SENT", "not held up by the offer before it"
    await submit(dispatcher, phones(10))
    await submit(dispatcher, phones(10, first=447_700_900_000), header(message_class=SERVICE))
    await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 10})
    assert simulator.times_accepted() == {1: 11}

    await go(dispatcher, **EVERYTHING, message_class=MARKETING)
    await eventually(lambda: simulator.times_accepted() == {1: 22})


async def test_another_traffic_account_s_stop_concerns_nobody_here(dispatcher: Dispatcher, peers: Peers) -> None:
    await stop(dispatcher, scope=queue_pb2.STOP_SCOPE_TRAFFIC_ACCOUNT, key="another")
    await submit(dispatcher, phones(5))
    await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 5})
    await stop(dispatcher, scope=queue_pb2.STOP_SCOPE_TRAFFIC_ACCOUNT, key=ACCOUNT)
    head = await submit(dispatcher, phones(5, first=447_700_900_000))
    assert (await dispatcher.hold(head)).reason == types_pb2.HOLD_REASON_STOPPED
    left = await go(dispatcher, scope=queue_pb2.STOP_SCOPE_TRAFFIC_ACCOUNT, key=ACCOUNT)
    assert [one.key for one in left] == ["another"]
    await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 10})


async def test_a_stop_survives_a_restart(configure: Callable[..., Settings], simulator: Provider, peers: Peers) -> None:
    async with serving(configure()) as before:
        await stop(before, **EVERYTHING)
        head = await submit(before, phones(10))
    async with serving(configure()) as after:
        assert (await after.hold(head)).reason == types_pb2.HOLD_REASON_STOPPED
        other = await submit(after, phones(10, first=447_700_900_000), header(tenant_id="other"))
        assert (await after.hold(other)).reason == types_pb2.HOLD_REASON_STOPPED
        assert simulator.stats().requests == 0
        await go(after, **EVERYTHING)
        await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 20})
    assert simulator.times_accepted() == {1: 20}


async def _stored_and_claimed(dispatcher: Dispatcher, database: Database) -> Any:
    """A batch of a campaign that nobody else claims, in the hands of the worker "w"."""
    head = header()
    await dispatcher.pause(head)
    await submit(dispatcher, phones(5), head)
    async with database.begin() as connection:
        await connection.execute(text("UPDATE campaigns SET paused = false"))
        lane = Lane(2, TENANT, uuid.UUID(head.campaign_id))
        batch = await claims.claim(connection, lane, "w", LEASE, account=ACCOUNT)
    assert batch is not None
    return replace(batch, attempt_id=uuid.uuid4())


@pytest.mark.parametrize("waits", [True, False], ids=["as it is", "without the lock"])
async def test_a_stop_answers_only_when_whoever_was_arming_has_committed_and_counts_him(
    dispatcher: Dispatcher, database: Database, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    if not waits:

        async def nothing(connection: Any) -> None:
            pass

        monkeypatch.setattr(stops, "lock", nothing)
    batch = await _stored_and_claimed(dispatcher, database)
    async with database.begin() as connection:
        assert await arm_as(connection, batch, "w"), "nothing was stopped yet"
        stopping = asyncio.create_task(stop(dispatcher, **TENANT_STOP))
        done, _ = await asyncio.wait([stopping], timeout=0.5)
        assert bool(done) is not waits
    assert (await stopping).in_flight == (1 if waits else 0), "the arm that came first is on the wire"


async def test_an_arm_that_comes_while_a_stop_is_written_waits_for_it_and_is_refused(
    dispatcher: Dispatcher, database: Database
) -> None:
    batch = await _stored_and_claimed(dispatcher, database)

    async def arm() -> bool:
        async with database.autocommit() as connection:
            return await arm_as(connection, batch, "w")

    async with database.begin() as connection:
        await stops.lock(connection)
        arming = asyncio.create_task(arm())
        assert not (await asyncio.wait([arming], timeout=0.5))[0]
        everything = stops.StopKey(stops.StopScope.ALL, "", None)
        assert await stops.insert(connection, everything, reason="why", operator="me")
    assert await arming is False


async def test_a_reader_that_takes_an_hour_holds_up_no_stop_and_no_arm(
    dispatcher: Dispatcher, database: Database, peers: Peers
) -> None:
    async with database.begin() as backup:
        await backup.execute(text("LOCK TABLE stops IN ACCESS SHARE MODE"))  # as pg_dump does
        async with asyncio.timeout(10):
            await stop(dispatcher, **TENANT_STOP)
            await submit(dispatcher, phones(10, first=447_700_900_000), header(tenant_id="other"))
            await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 10})


async def test_after_an_acknowledged_stop_nothing_is_armed_however_many_senders_are_at_it(
    configure: Callable[..., Settings], database: Database, simulator: Provider, peers: Peers
) -> None:
    async with serving(configure(worker_concurrency=4, sms_batch_size=1)) as one, serving(configure()) as two:
        await submit(one, phones(300))
        for _ in range(5):
            await eventually(lambda: len(peers.campaign.recipients) > 10)
            await stop(two, **TENANT_STOP)
            async with database.connect() as connection:
                acknowledged = (await connection.execute(text("SELECT clock_timestamp()"))).scalar_one()
            await asyncio.sleep(0.05)
            async with database.connect() as connection:
                armed_later = text("SELECT count(*) FROM attempts WHERE armed_at > :acknowledged")
                assert (await connection.execute(armed_later, {"acknowledged": acknowledged})).scalar_one() == 0
            await go(two, **TENANT_STOP)
        await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 300})
    assert simulator.times_accepted() == {1: 300}


async def test_who_stopped_what_and_why_is_kept_and_repeats_do_nothing_more(
    dispatcher: Dispatcher, database: Database
) -> None:
    first = order(**TENANT_STOP, reason="by accident")
    request = queue_pb2.StopSendingRequest(**first)
    stopped = (await dispatcher.queue.StopSending(request, metadata=[("x-operator", "maria")])).stop
    assert (await dispatcher.queue.StopSending(request)).stop == stopped
    assert (await stop(dispatcher, **TENANT_STOP, reason="for another reason")).stop == stopped, "it stands already"
    assert stopped.stopped_by.startswith("maria ")

    resumed = queue_pb2.ResumeSendingRequest(**order(**TENANT_STOP, reason="found out"))
    await dispatcher.queue.ResumeSending(resumed)
    assert list((await dispatcher.queue.ResumeSending(resumed)).stops) == []
    async with database.connect() as connection:
        rows = await connection.execute(text("SELECT kind, reason, subject FROM operator_actions ORDER BY created_at"))
        kept = [tuple(row) for row in rows]
    subject = f"TENANT {TENANT} (every class)"
    assert kept == [
        ("STOP", "by accident", subject),
        ("STOP", "for another reason", subject),
        ("RESUME", "found out", subject),
    ]
    for call, wanted in (
        (stop(dispatcher, **EVERYTHING, request_id=first["request_id"]), "REQUEST_ID_REUSED"),
        (stop(dispatcher, **TENANT_STOP, request_id=first["request_id"]), "STOP_NOT_FOUND"),
        (go(dispatcher, **TENANT_STOP), "STOP_NOT_FOUND"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert reason_of(refused.value) == wanted


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("scope", {"scope": 0}),
        ("key", {"scope": queue_pb2.STOP_SCOPE_ALL, "key": "acme"}),
        ("key", {"scope": queue_pb2.STOP_SCOPE_TENANT}),
        ("key", {"scope": queue_pb2.STOP_SCOPE_TRAFFIC_ACCOUNT}),
        ("reason", EVERYTHING | {"reason": " "}),
        ("message_class", EVERYTHING | {"message_class": 7}),
    ],
)
async def test_a_stop_that_means_nothing_is_refused(dispatcher: Dispatcher, field: str, wrong: dict[str, Any]) -> None:
    for call in (stop, go):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(dispatcher, **wrong)
        assert reason_of(refused.value) == "INVALID_ARGUMENT"
        assert field in str(refused.value.trailing_metadata())
