"""Single messages: the same protocol in the urgent lane, a credit each, and a reply within one provider call."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import grpc
import pytest

from bulksms.dispatcher.v1 import dispatch_pb2, queue_pb2
from bulksms.dispatcher.v1 import messages_pb2 as pb
from bulksms.types.v1 import types_pb2
from devstack.eventually import eventually
from devstack.mitto.behaviours import Behaviour
from servicekit.grpc.errors import from_rpc_error

from .dispatcher_support import TENANT, Dispatcher, Peers, Provider, reason_of, why

PHONE = "+306900000001"


def asking(**changes: Any) -> pb.SendMessageRequest:
    values: dict[str, Any] = {
        "request_id": str(uuid.uuid4()),
        "tenant_id": TENANT,
        "phone": PHONE,
        "text": "Your code is {{1234}}",
        "sender": "Astronote",
    }
    return pb.SendMessageRequest(**values | changes)


async def read(dispatcher: Dispatcher, message_id: str) -> pb.Message:
    response = await dispatcher.messages.GetMessage(pb.GetMessageRequest(tenant_id=TENANT, message_id=message_id))
    return response.message


async def test_a_message_is_sent_captured_and_read_again(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    response = await dispatcher.messages.SendMessage(asking())
    message = response.message
    assert (message.status, message.phone, message.parts) == (pb.MESSAGE_STATUS_SENT, PHONE, 1)
    assert not response.replayed

    (sent,) = simulator.accepted()
    assert (sent.destination, sent.text, sent.message_id) == (
        PHONE,
        "Your code is {{1234}}",
        message.provider_message_id,
    )
    assert sent.bulk_id is None
    assert await read(dispatcher, message.message_id) == message
    await eventually(lambda: len(peers.ledger.close_requests) == 1)
    assert peers.ledger.captured == 1
    ((reservation_id, close),) = peers.ledger.close_requests.items()
    assert reservation_id in peers.ledger.reservations
    assert close.expected_captured == 1
    assert peers.campaign.results == []
    (batch,) = await dispatcher.batches()
    assert (batch.campaign_id, batch.priority) == ("", types_pb2.PRIORITY_URGENT)


async def test_a_request_id_sends_once_however_often_it_is_asked(dispatcher: Dispatcher, simulator: Provider) -> None:
    request = asking()
    responses = await asyncio.gather(*(dispatcher.messages.SendMessage(request) for _ in range(8)))
    responses.append(await dispatcher.messages.SendMessage(request))
    assert len({response.message.provider_message_id for response in responses}) == 1
    assert [response.replayed for response in responses].count(False) == 1
    assert simulator.times_accepted() == {1: 1}
    with pytest.raises(grpc.aio.AioRpcError) as reused:
        await dispatcher.messages.SendMessage(asking(request_id=request.request_id, text="Other"))
    assert reason_of(reused.value) == "REQUEST_ID_REUSED"


async def test_a_message_is_known_by_the_callers_own_id_and_its_class(
    dispatcher: Dispatcher, simulator: Provider
) -> None:
    sent = (await dispatcher.messages.SendMessage(asking(external_id="order-42/confirmed"))).message
    assert (sent.external_id, sent.message_class) == ("order-42/confirmed", types_pb2.MESSAGE_CLASS_SERVICE)
    request = pb.GetMessageRequest(tenant_id=TENANT, external_id="order-42/confirmed")
    assert (await dispatcher.messages.GetMessage(request)).message == sent
    with pytest.raises(grpc.aio.AioRpcError) as used:
        await dispatcher.messages.SendMessage(asking(external_id="order-42/confirmed"))
    assert reason_of(used.value) == "EXTERNAL_ID_USED"
    assert from_rpc_error(used.value).metadata["message_id"] == sent.message_id
    other = asking(tenant_id="other", external_id="order-42/confirmed", message_class=types_pb2.MESSAGE_CLASS_MARKETING)
    response = await dispatcher.messages.SendMessage(other)
    assert response.message.message_class == types_pb2.MESSAGE_CLASS_MARKETING
    assert simulator.times_accepted() == {2: 1}
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await dispatcher.messages.GetMessage(pb.GetMessageRequest(tenant_id=TENANT, external_id="order-43"))
    assert reason_of(unknown.value) == "MESSAGE_NOT_FOUND"


async def test_an_external_id_is_free_again_when_its_message_was_refused(dispatcher: Dispatcher, peers: Peers) -> None:
    peers.ledger.available = 0
    with pytest.raises(grpc.aio.AioRpcError):
        await dispatcher.messages.SendMessage(asking(external_id="mine"))
    peers.ledger.available = 1
    sent = (await dispatcher.messages.SendMessage(asking(external_id="mine"))).message
    assert sent.status == pb.MESSAGE_STATUS_SENT


@pytest.mark.parametrize(
    "changes",
    [{"external_id": "x" * 65}, {"external_id": "with space"}, {"external_id": "αβγ"}, {"message_class": 7}],
    ids=["long", "space", "not ascii", "class"],
)
async def test_an_external_id_or_class_that_cannot_be_is_refused(
    dispatcher: Dispatcher, changes: dict[str, Any]
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await dispatcher.messages.SendMessage(asking(**changes))
    assert reason_of(refused.value) == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("behaviour", "status", "reason", "captured"),
    [
        ("flat-message-id", pb.MESSAGE_STATUS_SENT, "", 1),
        ("flat-id", pb.MESSAGE_STATUS_SENT, "", 1),
        ("400", pb.MESSAGE_STATUS_FAILED, "PROVIDER_REJECTED", 0),
        ("accept-then-reset", pb.MESSAGE_STATUS_UNCONFIRMED, "CONNECTION_LOST", None),
        ("500", pb.MESSAGE_STATUS_UNCONFIRMED, "SERVER_ERROR", None),
    ],
)
async def test_what_becomes_of_a_message_is_said_at_once(
    dispatcher: Dispatcher,
    simulator: Provider,
    peers: Peers,
    behaviour: str,
    status: pb.MessageStatus.ValueType,
    reason: str,
    captured: int | None,
) -> None:
    simulator.script(behaviour)
    message = (await dispatcher.messages.SendMessage(asking())).message
    assert (message.status, why(message)) == (status, reason)
    if captured is None:
        assert peers.ledger.close_requests == {}  # reserved until it is resolved
    else:
        await eventually(lambda: len(peers.ledger.close_requests) == 1)
        assert peers.ledger.captured == captured


async def test_without_credits_nothing_is_sent_and_the_request_may_be_repeated(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    peers.ledger.available = 0
    request = asking()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await dispatcher.messages.SendMessage(request)
    assert reason_of(refused.value) == "INSUFFICIENT_CREDITS"
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert simulator.times_accepted() == {}
    peers.ledger.available = 1
    response = await dispatcher.messages.SendMessage(request)
    assert response.message.status == pb.MESSAGE_STATUS_SENT


async def test_who_opted_out_gets_no_single_message(dispatcher: Dispatcher, simulator: Provider, peers: Peers) -> None:
    await dispatcher.dispatch.RecordOptOuts(
        dispatch_pb2.RecordOptOutsRequest(request_id=str(uuid.uuid4()), tenant_id=TENANT, phones=[int(PHONE[1:])])
    )
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await dispatcher.messages.SendMessage(asking())
    assert reason_of(refused.value) == "RECIPIENT_OPTED_OUT"
    assert peers.ledger.reservations == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"phone": "6900000001"},
        {"phone": "+0690000"},
        {"text": ""},
        {"text": "x" * 1601},
        {"sender": "a"},
        {"tenant_id": ""},
    ],
)
async def test_wrong_arguments_are_named(dispatcher: Dispatcher, changes: dict[str, str]) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await dispatcher.messages.SendMessage(asking(**changes))
    assert reason_of(refused.value) == "INVALID_ARGUMENT"
    assert next(iter(changes)) in (refused.value.details() or "")


async def test_messages_are_listed_newest_first(dispatcher: Dispatcher) -> None:
    sent = [(await dispatcher.messages.SendMessage(asking(text=f"{n}"))).message.message_id for n in range(5)]
    listed, token = [], ""
    for _ in range(3):
        page = await dispatcher.messages.ListMessages(
            pb.ListMessagesRequest(tenant_id=TENANT, page_size=2, page_token=token)
        )
        listed += [message.message_id for message in page.messages]
        token = page.next_page_token
    assert listed == sent[::-1]
    assert token == ""


async def test_reports_of_single_messages_are_recorded_and_others_named(dispatcher: Dispatcher) -> None:
    first = (await dispatcher.messages.SendMessage(asking())).message
    second = (await dispatcher.messages.SendMessage(asking(text="two"))).message

    def report(message_id: str, status: pb.MessageStatus.ValueType) -> pb.EvidenceReport:
        return pb.EvidenceReport(provider_message_id=message_id, status=status, raw_status="raw", description="why")

    reports = [
        report("nobody's", pb.MESSAGE_STATUS_DELIVERED),
        report(first.provider_message_id, pb.MESSAGE_STATUS_DELIVERED),
        report(first.provider_message_id, pb.MESSAGE_STATUS_SENT),  # late, and no longer news
        report(second.provider_message_id, pb.MESSAGE_STATUS_FAILED),
    ]
    for _ in range(2):
        response = await dispatcher.messages.RecordDeliveryEvidence(pb.RecordDeliveryEvidenceRequest(reports=reports))
        assert list(response.unknown_indexes) == [0]
    delivered = await read(dispatcher, first.message_id)
    assert (delivered.status, why(delivered), delivered.description) == (pb.MESSAGE_STATUS_DELIVERED, "", "")
    failed = await read(dispatcher, second.message_id)
    assert (failed.status, why(failed), failed.description) == (
        pb.MESSAGE_STATUS_FAILED,
        "NOT_DELIVERED",
        "why",
    )


async def test_an_unknown_message_is_not_found(dispatcher: Dispatcher) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await read(dispatcher, str(uuid.uuid4()))
    assert reason_of(unknown.value) == "MESSAGE_NOT_FOUND"


async def test_a_message_that_must_wait_is_queued_and_sent_later(dispatcher: Dispatcher, simulator: Provider) -> None:
    simulator.script(Behaviour(status=429, retry_after="seconds", retry_after_seconds=4))
    queued = (await dispatcher.messages.SendMessage(asking(), timeout=3)).message
    assert queued.status == pb.MESSAGE_STATUS_QUEUED

    async def sent() -> bool:
        return (await read(dispatcher, queued.message_id)).status == pb.MESSAGE_STATUS_SENT

    await eventually(sent)
    batches = await dispatcher.batches()
    assert [batch.state for batch in batches] == [queue_pb2.BATCH_STATE_ACCEPTED]
    assert simulator.times_accepted() == {1: 1}
