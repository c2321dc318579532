"""Status refresh: without a single webhook every accepted message reaches its final state."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import asyncpg
import grpc
import pytest

from bulksms.campaign.v1 import results_pb2
from bulksms.dispatcher.v1 import messages_pb2 as pb
from bulksms_dispatcher.domain.report_refreshes import RefreshSchedule
from bulksms_dispatcher.settings import Settings
from devstack.eventually import eventually
from devstack.mitto.behaviours import Behaviour
from devstack.mitto.delivery import Delivery
from devstack.mitto.delivery import Outcome as Fate
from devstack.mitto.rules import Match
from servicekit import errors

from .dispatcher_support import (
    TENANT,
    Dispatcher,
    Peers,
    Provider,
    busiest_window,
    header,
    phones,
    reason_of,
    serving,
    submit,
    why,
)

pytestmark = pytest.mark.slow

Status = results_pb2.DeliveryStatus
QUICK = {"status_refresh_after_seconds": "0.05,0.2,0.5", "status_refresh_max": 1000}


def asking(**changes: Any) -> pb.SendMessageRequest:
    values: dict[str, Any] = {
        "request_id": str(uuid.uuid4()),
        "tenant_id": TENANT,
        "phone": "+306900000001",
        "text": "Hello",
        "sender": "Astronote",
    }
    return pb.SendMessageRequest(**values | changes)


def deliver(simulator: Provider, seconds: float = 0.0) -> None:
    """No reports; what the provider knows changes all the same. One in ten fails, one in ten expires."""
    simulator.set_behaviour(
        delivery=Delivery(
            (
                Fate(("Sent", "Failure"), description="Absent subscriber", destination_suffix="7"),
                Fate(("Sent", "Expired"), destination_suffix="8"),
            ),
            first_status_seconds=seconds / 2,
            next_status_seconds=seconds / 2,
        ),
    )


@pytest.fixture
def quick(configure: Callable[..., Settings]) -> Callable[..., Settings]:
    return lambda **changes: configure(**QUICK | changes)


def test_rounds_are_due_at_30_seconds_2_and_5_minutes_then_with_growing_gaps_until_the_horizon() -> None:
    schedule = RefreshSchedule()
    due: list[timedelta] = []
    while (offset := schedule.after_acceptance(len(due) + 1)) is not None:
        due.append(offset)
    assert due[:6] == [timedelta(seconds=seconds) for seconds in (30, 120, 300, 600, 1200, 2400)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(due)]
    assert gaps == sorted(gaps)
    assert gaps[-1] == timedelta(hours=6)
    assert timedelta(hours=66) < due[-1] <= timedelta(hours=72)


async def test_without_webhooks_every_recipient_reaches_a_final_state(
    quick: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    deliver(simulator, seconds=0.4)
    async with serving(quick(sms_batch_size=300)) as first, serving(quick(sms_batch_size=300)):
        await submit(first, phones(700))
        await eventually(lambda: len(peers.campaign.final) == 700)
        statuses = {message.destination: message.message_id for message in simulator.accepted()}
        for destination, message_id in statuses.items():
            expected = {"7": "FAILED", "8": "EXPIRED"}.get(destination[-1], "DELIVERED")
            assert Status.Name(peers.campaign.final[message_id].status) == f"DELIVERY_STATUS_{expected}"
        # What is final is not asked about again, and in the end nothing is.
        await eventually(lambda: _no_refreshes(quick))


async def _no_refreshes(quick: Callable[..., Settings]) -> bool:
    connection = await asyncpg.connect(quick().database_url.get_secret_value())
    try:
        return bool(await connection.fetchval("SELECT count(*) = 0 FROM report_refreshes"))
    finally:
        await connection.close()


async def test_a_single_message_reaches_its_final_state_without_a_report(
    quick: Callable[..., Settings], simulator: Provider
) -> None:
    deliver(simulator)
    async with serving(quick()) as dispatcher:
        good = (await dispatcher.messages.SendMessage(asking())).message
        bad = (await dispatcher.messages.SendMessage(asking(phone="+306900000007"))).message

        async def status(message: pb.Message) -> pb.Message:
            request = pb.GetMessageRequest(tenant_id=TENANT, message_id=message.message_id)
            return (await dispatcher.messages.GetMessage(request)).message

        async def both_final() -> bool:
            return {(await status(good)).status, (await status(bad)).status} == {
                pb.MESSAGE_STATUS_DELIVERED,
                pb.MESSAGE_STATUS_FAILED,
            }

        await eventually(both_final)
        failed = await status(bad)
        assert (why(failed), failed.description) == ("NOT_DELIVERED", "Absent subscriber")


@pytest.mark.parametrize(
    "trouble",
    [
        Behaviour(status=429, retry_after="seconds", retry_after_seconds=1),
        Behaviour(status=500),
        Behaviour(body="html"),
        Behaviour(response="reset"),
        Behaviour(status=404),
    ],
    ids=["429", "500", "html", "reset", "404"],
)
async def test_a_provider_that_does_not_answer_questions_is_asked_again(
    quick: Callable[..., Settings], simulator: Provider, peers: Peers, trouble: Behaviour
) -> None:
    deliver(simulator)
    simulator.script(trouble, repeat=5, match=Match(path="get"))
    async with serving(quick()) as dispatcher:
        await submit(dispatcher, phones(10))
        await eventually(lambda: len(peers.campaign.final) == 10)


async def test_a_batch_the_campaign_service_has_not_heard_of_is_not_asked_about(
    quick: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    deliver(simulator)
    peers.campaign.refuse_with = errors.unavailable("DOWN", "The campaign service is away.")
    async with serving(quick()) as dispatcher:
        await submit(dispatcher, phones(10))
        await eventually(lambda: _all_accepted(dispatcher))
        assert peers.campaign.awaited_calls == 0
        peers.campaign.refuse_with = None
        await eventually(lambda: len(peers.campaign.final) == 10)


async def _all_accepted(dispatcher: Dispatcher) -> bool:
    return set(await dispatcher.states()) == {"ACCEPTED"}


async def test_an_operator_asks_about_any_message_of_his_tenant(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    deliver(simulator)
    async with serving(configure()) as dispatcher:
        single = (await dispatcher.messages.SendMessage(asking(external_id="mine"))).message
        await submit(dispatcher, phones(1, first=306_955_500_007), header())
        await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 1})
        recipient = next(m for m in simulator.accepted() if m.destination == "+306955500007")

        async def refresh(tenant_id: str = TENANT, **name: str) -> tuple[str, str]:
            request = pb.RefreshMessageStatusRequest(tenant_id=tenant_id, **name)
            response = await dispatcher.messages.RefreshMessageStatus(request)
            return pb.MessageStatus.Name(response.status).removeprefix("MESSAGE_STATUS_"), response.provider_status

        assert await refresh(message_id=single.message_id) == ("DELIVERED", "Delivered")
        assert await refresh(external_id=single.external_id) == ("DELIVERED", "Delivered")
        assert await refresh(provider_message_id=single.provider_message_id) == ("DELIVERED", "Delivered")
        assert await refresh(provider_message_id=recipient.message_id) == ("FAILED", "Failure")
        assert peers.campaign.final[recipient.message_id].status == results_pb2.DELIVERY_STATUS_FAILED
        for name, tenant_id in [
            ({"provider_message_id": recipient.message_id}, "other"),
            ({"message_id": single.message_id}, "other"),
            ({"external_id": single.external_id}, "other"),
            ({"provider_message_id": "nobody's"}, TENANT),
            ({"message_id": str(uuid.uuid4())}, TENANT),
            ({"external_id": "nobody-s"}, TENANT),
        ]:
            with pytest.raises(grpc.aio.AioRpcError) as unknown:
                await refresh(tenant_id, **name)
            assert reason_of(unknown.value) == "MESSAGE_NOT_FOUND"
        simulator.script("500", match=Match(path="get"))
        with pytest.raises(grpc.aio.AioRpcError) as away:
            await refresh(provider_message_id=recipient.message_id)
        assert reason_of(away.value) == "PROVIDER_UNAVAILABLE"


async def test_questions_about_statuses_keep_to_their_limit(
    quick: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    deliver(simulator)
    async with serving(quick(status_refresh_max=20)) as one, serving(quick(status_refresh_max=20)):
        await submit(one, phones(60))
        await eventually(lambda: len(peers.campaign.final) == 60)
    times = sorted(request.arrived_at for request in simulator.requests() if request.method == "GET")
    assert len(times) == 60
    assert busiest_window(times, timedelta(seconds=1)) <= 20
