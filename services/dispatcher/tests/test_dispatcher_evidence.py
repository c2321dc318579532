"""Ambiguity resolved by evidence and by operators: what it names, nothing more, and never another batch's message."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable

import grpc
import pytest
from sqlalchemy import text

from bulksms.dispatcher.v1 import messages_pb2 as pb
from bulksms.dispatcher.v1 import queue_pb2
from bulksms.ledger.v1 import ledger_pb2
from bulksms_dispatcher.domain.lookup_results import read_response
from bulksms_dispatcher.settings import Settings
from devstack.eventually import eventually
from devstack.mitto.behaviours import Behaviour, Latency
from servicekit.database import Database

from .dispatcher_support import TENANT, Dispatcher, Peers, Provider, header, phones, reason_of, serving, submit, why

# On the wire together: neither of two is ambiguous yet when the other one is sent.
CUT_OFF_LATE = Behaviour(latency=Latency(constant_seconds=2.0), response="reset")


def report(message_id: str) -> pb.EvidenceReport:
    return pb.EvidenceReport(provider_message_id=message_id, status=pb.MESSAGE_STATUS_DELIVERED, raw_status="Delivered")


def sent_report(message_id: str) -> pb.EvidenceReport:
    return pb.EvidenceReport(provider_message_id=message_id, status=pb.MESSAGE_STATUS_SENT, raw_status="Sent")


async def offer(dispatcher: Dispatcher, *message_ids: str) -> list[int]:
    """Reports as the gateway hands them over; the positions of those that are nobody's."""
    reports = [report(message_id) for message_id in message_ids]
    response = await dispatcher.messages.RecordDeliveryEvidence(pb.RecordDeliveryEvidenceRequest(reports=reports))
    return list(response.unknown_indexes)


async def resolve(
    dispatcher: Dispatcher, batch_id: str, resolution: queue_pb2.Resolution.ValueType, **changes: str
) -> queue_pb2.Batch:
    values = {"request_id": str(uuid.uuid4()), "batch_id": batch_id, "evidence": "asked Mitto"} | changes
    return (await dispatcher.queue.ResolveBatch(queue_pb2.ResolveBatchRequest(resolution=resolution, **values))).batch


async def only_batch(dispatcher: Dispatcher) -> queue_pb2.Batch:
    (batch,) = await dispatcher.batches()
    return batch


async def ambiguous(dispatcher: Dispatcher, simulator: Provider, peers: Peers, count: int = 10, **head: object) -> None:
    simulator.script("accept-then-reset")
    await submit(dispatcher, phones(count), header(**head))
    await eventually(lambda: peers.campaign.outcomes == {"AMBIGUOUS": count})


async def test_reports_of_all_its_recipients_resolve_a_batch_to_what_the_provider_accepted(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    await ambiguous(dispatcher, simulator, peers)
    sent = {int(message.destination[1:]): message.message_id for message in simulator.accepted()}
    assert await offer(dispatcher, *sent.values()) == list(range(10))  # campaign does not know them yet
    await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 10})
    assert {phone: reported[2] for phone, reported in peers.campaign.recipients.items()} == sent
    batch = await only_batch(dispatcher)
    assert batch.state == queue_pb2.BATCH_STATE_ACCEPTED
    await eventually(lambda: peers.ledger.captured == 10)
    assert why((await dispatcher.attempts(batch.batch_id))[-1]) == "EVIDENCE"
    assert simulator.times_accepted() == {1: 10}


async def test_a_report_resolves_the_recipient_it_names_and_no_other(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    await ambiguous(dispatcher, simulator, peers)
    third = list(simulator.accepted())[2]
    await offer(dispatcher, third.message_id)
    await eventually(lambda: peers.campaign.outcomes == {"AMBIGUOUS": 9, "ACCEPTED": 1})
    assert peers.campaign.recipients[int(third.destination[1:])] == ("ACCEPTED", "", third.message_id)
    assert (await only_batch(dispatcher)).state == queue_pb2.BATCH_STATE_AMBIGUOUS
    assert peers.ledger.captured == 0  # with the batch, once


async def test_personal_texts_are_compared_as_they_were_sent(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    simulator.script("accept-then-reset")
    head = header(text="Γεια {{name|φίλε}}, {{city}}!", variable_names=["city", "name"])
    await submit(dispatcher, phones(3), head, ["Αθήνα", "Άννα", "Πάτρα", "", "Βόλος", "Νίκος"])
    await eventually(lambda: peers.campaign.outcomes == {"AMBIGUOUS": 3})
    await offer(dispatcher, *(message.message_id for message in simulator.accepted()))
    await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 3})


async def test_messages_that_cannot_be_told_apart_resolve_their_recipients_only_together(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers, database: Database
) -> None:
    simulator.script(CUT_OFF_LATE, repeat=2)
    await asyncio.gather(submit(dispatcher, phones(10)), submit(dispatcher, phones(10)))
    await eventually(lambda: _in_state(dispatcher, "AMBIGUOUS", 2))
    sent = list(simulator.accepted())
    await offer(dispatcher, sent[0].message_id)
    await eventually(lambda: evidence_reason(database, sent[0].message_id, "NOT_UNIQUE"))
    await eventually(lambda: peers.campaign.outcomes == {"AMBIGUOUS": 10})
    # Two messages that cannot be distinguished, and two recipients who were sent one at most: each was sent one.
    await offer(dispatcher, *(message.message_id for message in sent))
    await eventually(lambda: _in_state(dispatcher, "ACCEPTED", 2))
    await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 10})
    await eventually(lambda: peers.ledger.captured == 20)
    bulks = {message.message_id: message.bulk_id for message in sent}
    for reported in peers.campaign.results:
        ids = [message_id for group in reported.groups for message_id in group.provider_message_ids]
        assert len({bulks[message_id] for message_id in ids}) <= 1, "not mixed up"


async def test_messages_that_cannot_be_told_apart_resolve_nobody_while_their_outcomes_differ(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers, database: Database
) -> None:
    simulator.script(CUT_OFF_LATE, repeat=2)
    await asyncio.gather(submit(dispatcher, phones(1)), submit(dispatcher, phones(1)))
    await eventually(lambda: _in_state(dispatcher, "AMBIGUOUS", 2))
    one, other = (message.message_id for message in simulator.accepted())
    failed = pb.EvidenceReport(provider_message_id=other, status=pb.MESSAGE_STATUS_FAILED, raw_status="Failed")
    await dispatcher.messages.RecordDeliveryEvidence(
        pb.RecordDeliveryEvidenceRequest(reports=[report(one), failed, sent_report(other)])
    )
    for message_id in (one, other):
        await eventually(lambda: evidence_reason(database, message_id, "NOT_UNIQUE"))  # noqa: B023
    assert await dispatcher.states() == {"AMBIGUOUS": 2}


async def test_the_sender_tells_messages_apart_that_are_otherwise_the_same(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    simulator.script(CUT_OFF_LATE, repeat=2)
    one, other = header(sender="ShopOne"), header(sender="ShopTwo")
    await asyncio.gather(submit(dispatcher, phones(5), one), submit(dispatcher, phones(5), other))
    await eventually(lambda: _in_state(dispatcher, "AMBIGUOUS", 2))
    await offer(dispatcher, *(message.message_id for message in simulator.accepted() if message.sender == "ShopTwo"))
    await eventually(lambda: _in_state(dispatcher, "ACCEPTED", 1))
    (resolved,) = await dispatcher.batches(state=queue_pb2.BATCH_STATE_ACCEPTED)
    assert resolved.campaign_id == other.campaign_id


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b'"text"',
        b"<html>",
        b'{"text":"Hi"}',
        b'{"text":"Hi","destination":"+306900000001"}',
        b'{"text":"Hi","destination":"+306900000001","createdAt":"yesterday"}',
        b'{"text":"Hi","destination":"+306900000001","createdAt":"9999-12-31T23:59:59.9999999Z"}',
        b'{"text":"Hi","destination":"+306900000001","createdAt":"2026-13-41T10:00:00Z"}',
        b'{"text":7,"destination":"+306900000001","createdAt":"2026-11-22T10:00:00Z"}',
        b'{"text":"Hi","destination":["+306900000001"],"createdAt":"2026-11-22T10:00:00Z"}',
        b'{"messageId":"other","text":"Hi","destination":"+306900000001","createdAt":"2026-11-22T10:00:00Z"}',
        (
            b'{"text":"Hi","destination":"+306900000001","createdAt":"2026-11-22T10:00:00Z",'
            b'"conversation":{"participants":[{"messagingAppIdentifier":"+306900000002"}]}}'
        ),
        b'{"text":"Hi","conversation":{"participants":[null,{},7]},"createdAt":"2026-11-22T10:00:00Z"}',
        b"[" * 100_000,
    ],
)
def test_a_provider_record_that_is_not_whole_is_none(body: bytes) -> None:
    assert read_response(body, "id").provider_record is None


def test_a_provider_record_is_read_wherever_clients_have_found_it() -> None:
    bodies = (
        (
            b'{"messageId":"id","text":"Hi","conversation":{"participants":[{"messagingAppIdentifier":"+306900000001"}]},'
            b'"createdAt":"2026-11-22T10:00:00.1234567Z"}'
        ),
        (
            rb'{"requestInfo":{"sms":{"text":"Hi","sender":"A\u0000"}},"destination":"00306900000001",'
            b'"createdAt":"2026-11-22T12:00:00.123456+02:00"}'
        ),
        b'{"text":"Hi","destination":306900000001,"createdAt":"2026-11-22 10:00:00.123456"}',
    )
    found = [read_response(body, "id").provider_record for body in bodies]
    assert found[0] is not None
    assert found == [found[0]] * 3
    assert (found[0].destination, found[0].sender) == (306_900_000_001, None)


async def test_an_id_of_an_accepted_batch_is_not_taken_for_evidence_of_another_with_the_same_text(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers, database: Database
) -> None:
    async with serving(configure()) as first:
        await submit(first, phones(10))
        await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 10})
    known = next(iter(simulator.accepted())).message_id
    # Another process, a long time later: the id is not in its memory any more, only in the stored responses.
    async with database.begin() as connection:
        await connection.execute(
            text("UPDATE provider_responses SET received_at = received_at - interval '61 minutes'")
        )
    async with serving(configure(evidence_window_seconds=3600 * 2)) as second:
        simulator.script("500")  # not accepted, but who knows
        await submit(second, phones(10))
        await eventually(lambda: _in_state(second, "AMBIGUOUS", 1))
        await offer(second, known)
        await eventually(lambda: evidence_reason(database, known, "KNOWN"))
        assert await second.states() == {"ACCEPTED": 1, "AMBIGUOUS": 1}
    assert peers.ledger.captured == 10


async def test_another_text_or_an_id_the_provider_does_not_know_proves_nothing(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers, database: Database
) -> None:
    await submit(dispatcher, phones(10), header(text="Other"))
    await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 10})
    other = next(iter(simulator.accepted())).message_id
    async with database.begin() as connection:  # as if this response had never been recorded, here or anywhere
        await connection.execute(text("DELETE FROM provider_responses"))
    simulator.script("accept-then-reset")
    await submit(dispatcher, phones(10))
    await eventually(lambda: _in_state(dispatcher, "AMBIGUOUS", 1))
    assert await offer(dispatcher, "nobody's", "", "x" * 65, "..") == [0, 1, 2, 3]
    await eventually(lambda: evidence_reason(database, "nobody's", "PROVIDER_DOES_NOT_KNOW"))
    assert await offer(dispatcher, other) == [0]
    assert (await dispatcher.states())["AMBIGUOUS"] == 1


async def test_evidence_for_a_single_message_confirms_it_and_its_reports_are_recorded_then(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    simulator.script("accept-then-reset")
    request = pb.SendMessageRequest(
        request_id=str(uuid.uuid4()), tenant_id=TENANT, phone="+306900000001", text="{{1}}", sender="Astronote"
    )
    message = (await dispatcher.messages.SendMessage(request)).message
    assert message.status == pb.MESSAGE_STATUS_UNCONFIRMED
    (sent,) = simulator.accepted()

    async def known() -> bool:
        return await offer(dispatcher, sent.message_id) == []

    await eventually(known)
    found = await dispatcher.messages.GetMessage(pb.GetMessageRequest(tenant_id=TENANT, message_id=message.message_id))
    assert found.message.status == pb.MESSAGE_STATUS_DELIVERED
    assert found.message.provider_message_id == sent.message_id
    await eventually(lambda: len(peers.ledger.close_requests) == 1)
    assert peers.ledger.captured == 1


async def test_after_the_horizon_the_named_stay_accepted_and_the_others_are_unknown(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers, database: Database
) -> None:
    await ambiguous(dispatcher, simulator, peers)
    accepted = list(simulator.accepted())
    await offer(dispatcher, accepted[4].message_id)
    await eventually(lambda: peers.campaign.outcomes["ACCEPTED"] == 1)
    await past_the_horizon(database)
    await eventually(lambda: peers.campaign.outcomes == {"UNRESOLVED": 9, "ACCEPTED": 1})
    await eventually(lambda: peers.ledger.captured == 1)
    assert (await only_batch(dispatcher)).state == queue_pb2.BATCH_STATE_UNRESOLVED


async def test_evidence_after_the_horizon_is_told_and_a_capture_refused_for_good_is_kept_and_not_repeated(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers, database: Database
) -> None:
    await ambiguous(dispatcher, simulator, peers)
    await past_the_horizon(database)
    await eventually(lambda: peers.campaign.outcomes == {"UNRESOLVED": 10})
    peers.ledger.capture_refusal = ledger_pb2.REFUSAL_REASON_RESERVATION_STATE
    late = list(simulator.accepted())[7]
    await offer(dispatcher, late.message_id)
    await eventually(lambda: peers.campaign.outcomes == {"UNRESOLVED": 9, "ACCEPTED": 1})

    async def uncaptured() -> list[tuple[int, str]]:
        async with database.connect() as connection:
            return [
                tuple(row) for row in await connection.execute(text("SELECT units, reason FROM uncaptured_credits"))
            ]

    async def everything_is_reported() -> bool:
        stats = await dispatcher.queue.GetQueueStats(queue_pb2.GetQueueStatsRequest())
        return stats.outbox_pending == 0

    await eventually(uncaptured)
    assert await uncaptured() == [(1, "RESERVATION_STATE")]
    await eventually(everything_is_reported)


async def test_an_operator_s_acceptance_is_told_captured_and_kept_with_its_author(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers, database: Database
) -> None:
    await ambiguous(dispatcher, simulator, peers)
    named = next(iter(simulator.accepted()))
    await offer(dispatcher, named.message_id)
    await eventually(lambda: peers.campaign.outcomes["ACCEPTED"] == 1)
    batch = await only_batch(dispatcher)
    request = queue_pb2.ResolveBatchRequest(
        request_id=str(uuid.uuid4()),
        batch_id=batch.batch_id,
        resolution=queue_pb2.RESOLUTION_ACCEPTED,
        evidence="Mitto's invoice",
    )
    for _ in range(2):
        reply = await dispatcher.queue.ResolveBatch(request, metadata=[("x-operator", "maria")])
        assert reply.batch.state == queue_pb2.BATCH_STATE_ACCEPTED
    await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 10})
    assert sorted(reported[2] for reported in peers.campaign.recipients.values()) == [""] * 9 + [named.message_id]
    await eventually(lambda: peers.ledger.captured == 10)
    async with database.connect() as connection:
        (kept,) = await connection.execute(text("SELECT kind, reason, operator FROM operator_actions"))
    assert (kept.kind, kept.reason) == ("RESOLVE_ACCEPTED", "Mitto's invoice")
    assert kept.operator.startswith("maria ")
    # The others' reports still come: now campaign learns their ids, and nothing is captured twice.
    await offer(dispatcher, *(message.message_id for message in simulator.accepted()))
    await eventually(lambda: all(reported[2] for reported in peers.campaign.recipients.values()))
    assert peers.ledger.captured == 10


async def test_an_operator_s_not_sent_fails_the_recipients_and_is_refused_where_evidence_differs(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    simulator.script("500")
    await submit(dispatcher, phones(10))
    await eventually(lambda: peers.campaign.outcomes == {"AMBIGUOUS": 10})
    batch = await only_batch(dispatcher)
    request_id = str(uuid.uuid4())
    resolved = await resolve(dispatcher, batch.batch_id, queue_pb2.RESOLUTION_NOT_SENT, request_id=request_id)
    assert (resolved.state, why(resolved)) == (queue_pb2.BATCH_STATE_REJECTED, "OPERATOR")
    await eventually(lambda: peers.campaign.outcomes == {"FAILED": 10})
    assert peers.ledger.captured == 0
    with pytest.raises(grpc.aio.AioRpcError) as reused:
        await resolve(dispatcher, batch.batch_id, queue_pb2.RESOLUTION_ACCEPTED, request_id=request_id)
    assert reason_of(reused.value) == "REQUEST_ID_REUSED"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await resolve(dispatcher, batch.batch_id, queue_pb2.RESOLUTION_ACCEPTED)
    assert reason_of(refused.value) == "BATCH_STATE"
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await resolve(dispatcher, str(uuid.uuid4()), queue_pb2.RESOLUTION_ACCEPTED)
    assert reason_of(unknown.value) == "BATCH_NOT_FOUND"
    with pytest.raises(grpc.aio.AioRpcError) as wrong:
        await resolve(dispatcher, batch.batch_id, queue_pb2.RESOLUTION_UNSPECIFIED, evidence=" ")
    assert reason_of(wrong.value) == "INVALID_ARGUMENT"

    await submit(dispatcher, phones(1, first=491_510_000_000))  # the probe that lets batches of ten go out again
    await eventually(lambda: peers.campaign.outcomes["ACCEPTED"] == 1)
    simulator.script("accept-then-reset")
    await submit(dispatcher, phones(10, first=447_700_900_000))
    await eventually(lambda: _in_state(dispatcher, "AMBIGUOUS", 1))
    await offer(dispatcher, list(simulator.accepted())[1].message_id)
    await eventually(lambda: peers.campaign.outcomes["ACCEPTED"] == 2)
    (unresolved,) = await dispatcher.batches(state=queue_pb2.BATCH_STATE_AMBIGUOUS)
    with pytest.raises(grpc.aio.AioRpcError) as refuted:
        await resolve(dispatcher, unresolved.batch_id, queue_pb2.RESOLUTION_NOT_SENT)
    assert reason_of(refuted.value) == "BATCH_STATE"


async def _in_state(dispatcher: Dispatcher, state: str, batches: int) -> bool:
    return (await dispatcher.states())[state] == batches


async def evidence_reason(database: Database, message_id: str, reason: str) -> bool:
    async with database.connect() as connection:
        found = await connection.execute(
            text("SELECT reason FROM evidence WHERE provider_message_id = :id"), {"id": message_id}
        )
        return found.scalar_one_or_none() == reason


async def past_the_horizon(database: Database) -> None:
    """As if the horizon had passed."""
    async with database.begin() as connection:
        await connection.execute(
            text("UPDATE batches SET updated_at = updated_at - interval '73 hours' WHERE state = 6")
        )
