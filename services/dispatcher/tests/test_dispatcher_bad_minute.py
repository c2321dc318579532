"""A bad minute of the provider: few are ambiguous, nobody is lost, and everything else goes out afterwards."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import text

from bulksms.dispatcher.v1 import messages_pb2, queue_pb2
from bulksms_dispatcher.settings import Settings
from devstack.eventually import eventually
from devstack.mitto.behaviours import Behaviour, Latency
from devstack.mitto.rules import Match, Rule
from servicekit.database import Database

from .dispatcher_support import TENANT, Dispatcher, Peers, Provider, header, phones, serving, submit, why

BATCH_SIZE = 10
SENDERS = 2 * (4 + 1)
"""Of two replicas, with the senders for urgent batches."""
RECIPIENTS = 2000
OTHER_NUMBERS = 447_700_900_000


async def holds_of(dispatcher: Dispatcher) -> list[queue_pb2.AccountHold]:
    return list((await dispatcher.queue.GetQueueStats(queue_pb2.GetQueueStatsRequest())).holds)


async def go_through(
    configure: Callable[..., Settings],
    simulator: Provider,
    peers: Peers,
    behaviour: str | Behaviour,
    seconds: float,
    *,
    recipients: int = RECIPIENTS,
    request_seconds: float = 0.15,
    patience: float = 60,
    **changes: Any,
) -> None:
    """A campaign at full speed, which meets a bad time in its middle; until nothing of it waits any more."""
    settings = configure(**changes)
    async with serving(settings) as first, serving(settings):
        # A little time for each request: so all senders have one under way when the bad time begins.
        slowly = Rule(do=Behaviour(latency=Latency(constant_seconds=request_seconds)))
        simulator.set_behaviour(rules=[slowly])
        head = header()
        await submit(first, phones(recipients), head)
        await eventually(lambda: simulator.stats().accepted_messages >= recipients / 10)
        simulator.set_behaviour(rules=[Rule(do=behaviour)])
        await asyncio.sleep(seconds)
        simulator.set_behaviour(rules=[slowly])
        await eventually(lambda: _nothing_is_under_way(first), patience, every_seconds=0.2)
        await eventually(lambda: len(peers.campaign.recipients) == recipients, 60)
    assert set(simulator.times_accepted()) == {1}, "nobody twice"


async def _nothing_is_under_way(dispatcher: Dispatcher) -> bool:
    return not {"READY", "LEASED", "ARMED"} & set(await dispatcher.states())


def assert_few_are_ambiguous(
    peers: Peers, probes: int = 12, *, recipients: int = RECIPIENTS, size: int = BATCH_SIZE
) -> None:
    outcomes = peers.campaign.outcomes
    assert outcomes["AMBIGUOUS"] <= SENDERS * size + probes
    assert outcomes["ACCEPTED"] == recipients - outcomes["AMBIGUOUS"], "all others were sent afterwards"


SILENCE = {"mitto_soft_timeout_seconds": 0.5, "mitto_hard_timeout_seconds": 1.0}


@pytest.mark.parametrize(
    ("behaviour", "changes"),
    [
        ("503", {}),
        ("accept-then-503", {}),
        ("reset", {}),
        ("never-respond", SILENCE),
        ("accept-then-never-respond", SILENCE),
    ],
)
async def test_a_bad_time_at_full_speed_leaves_no_more_ambiguous_than_was_on_the_wire(
    configure: Callable[..., Settings],
    simulator: Provider,
    peers: Peers,
    behaviour: str,
    changes: dict[str, Any],
) -> None:
    await go_through(configure, simulator, peers, behaviour, 2.0, **changes)
    assert peers.campaign.outcomes["AMBIGUOUS"] > 0
    assert_few_are_ambiguous(peers)


@pytest.mark.usefixtures("holds_nothing")
async def test_without_the_breaker_the_same_bad_time_makes_all_of_them_ambiguous(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    await go_through(configure, simulator, peers, "503", 2.0)
    with pytest.raises(AssertionError):
        assert_few_are_ambiguous(peers)


async def test_refused_connections_make_nobody_ambiguous_and_spend_no_retry(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    settings = configure(queue_max_retries=0)
    async with serving(settings) as first, serving(settings):
        head = header()
        await first.pause(head)
        await submit(first, phones(RECIPIENTS), head)
        simulator.refuse_connections(2.0, drop_connections=True)
        await first.resume(head)
        (hold,) = await eventually(lambda: holds_of(first))
        assert (hold.kind, why(hold)) == (queue_pb2.ACCOUNT_HOLD_KIND_UNAVAILABLE, "CONNECT_FAILED")
        await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": RECIPIENTS}, 60)
        assert await holds_of(first) == []
    assert simulator.times_accepted() == {1: RECIPIENTS}


async def test_a_poisoned_text_does_not_stop_another_campaign_and_rests_alone(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    simulator.set_behaviour(rules=[Rule(do="503", match=Match(destination_prefix="+306"))])
    async with serving(configure()) as dispatcher:
        poisoned = await submit(dispatcher, phones(100))
        await eventually(lambda: peers.campaign.outcomes["AMBIGUOUS"] > 0)
        await submit(dispatcher, phones(100, first=OTHER_NUMBERS), header(tenant_id="other"))
        await eventually(lambda: peers.campaign.outcomes["ACCEPTED"] == 100)
        (hold,) = await holds_of(dispatcher)
        assert (hold.tenant_id, hold.campaign_id) == (TENANT, poisoned.campaign_id)

        # Cured, its own probe is answered well, and it goes on.
        simulator.set_behaviour()
        await eventually(lambda: len(peers.campaign.recipients) == 200, 60)
        await eventually(lambda: peers.campaign.outcomes.total() == 200 and _nothing_is_under_way(dispatcher), 60)
        assert await holds_of(dispatcher) == []
    assert peers.campaign.outcomes["AMBIGUOUS"] <= 5 * BATCH_SIZE + 12
    assert set(peers.campaign.outcomes) == {"ACCEPTED", "AMBIGUOUS"}


async def send_single(dispatcher: Dispatcher, number: int) -> messages_pb2.Message:
    request = messages_pb2.SendMessageRequest(
        request_id=str(uuid.uuid4()), tenant_id=TENANT, phone=f"+{number}", text="Code 1234", sender="Astronote"
    )
    return (await dispatcher.messages.SendMessage(request)).message


async def test_one_stale_connection_does_not_stop_single_messages_and_three_do(
    configure: Callable[..., Settings], simulator: Provider
) -> None:
    async with serving(configure(probe_after_seconds=5.0)) as dispatcher:
        simulator.script("reset", "reset")
        for number, status in zip(phones(4), ("UNCONFIRMED", "UNCONFIRMED", "SENT", "SENT"), strict=True):
            message = await send_single(dispatcher, number)
            assert messages_pb2.MessageStatus.Name(message.status) == f"MESSAGE_STATUS_{status}"
        assert await holds_of(dispatcher) == []
        simulator.script("reset")
        await send_single(dispatcher, OTHER_NUMBERS)
        (hold,) = await holds_of(dispatcher)
        assert (hold.kind, why(hold)) == (queue_pb2.ACCOUNT_HOLD_KIND_AMBIGUITY, "CONNECTION_LOST")


async def test_a_hold_survives_a_restart_and_is_shared_by_all_replicas(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers, database: Database
) -> None:
    settings = configure(probe_after_seconds=300.0)
    async with serving(settings) as dispatcher:
        simulator.script("503")
        await submit(dispatcher, phones(1 * BATCH_SIZE))
        await eventually(lambda: peers.campaign.outcomes == {"AMBIGUOUS": BATCH_SIZE})
        (before,) = await holds_of(dispatcher)
    async with serving(settings) as first, serving(settings) as second:
        assert [await holds_of(first), await holds_of(second)] == [[before], [before]]
        await submit(second, phones(2 * BATCH_SIZE, first=OTHER_NUMBERS), header(tenant_id="other"))
        await asyncio.sleep(1.5)  # longer than a replica goes without a look
        assert simulator.times_accepted() == {}
        assert await second.states() == {"AMBIGUOUS": 1, "READY": 2}

        async with database.begin() as connection:
            await connection.execute(
                text("UPDATE account_holds SET probe_at = clock_timestamp(), failed_at = failed_at - interval '1 h'")
            )
        await eventually(lambda: peers.campaign.outcomes["ACCEPTED"] == 2 * BATCH_SIZE)
    sizes = Counter(request.messages for request in simulator.requests() if request.status == 200)
    assert sizes == {1: 1, BATCH_SIZE - 1: 1, BATCH_SIZE: 1}, "one probe of one recipient, then everything"


async def test_a_hold_is_probed_by_one_at_a_time(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    settings = configure(probe_after_seconds=0.05, probe_after_max_seconds=0.05)
    async with serving(settings) as first, serving(settings):
        simulator.set_behaviour(rules=[Rule(do=Behaviour(status=503, latency_before_acceptance=Latency(0.1)))])
        await submit(first, phones(BATCH_SIZE))
        await eventually(lambda: peers.campaign.outcomes["AMBIGUOUS"] == BATCH_SIZE)
        await submit(first, phones(3 * BATCH_SIZE, first=OTHER_NUMBERS))
        await eventually(lambda: len(simulator.requests()) >= 8)
        simulator.set_behaviour()
        await eventually(lambda: len(peers.campaign.recipients) == 4 * BATCH_SIZE)
    _, *probes = [request for request in simulator.requests() if request.status == 503]
    began = sorted(request.arrived_at for request in probes)
    assert all(later - earlier >= 0.1 for earlier, later in pairwise(began))
    assert {request.messages for request in probes} <= {1}


async def test_the_rest_that_a_503_asks_for_is_given(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    simulator.script(Behaviour(status=503, retry_after="seconds", retry_after_seconds=2))
    async with serving(configure(worker_concurrency=1)) as dispatcher:
        await submit(dispatcher, phones(2 * BATCH_SIZE))
        await eventually(lambda: peers.campaign.outcomes["ACCEPTED"] == BATCH_SIZE)
    refused, probe, *_ = sorted(simulator.requests(), key=lambda request: request.arrived_at)
    assert probe.arrived_at >= refused.arrived_at + 2


async def test_after_an_outage_the_rate_grows_back_as_after_a_429(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    settings = configure(sms_batch_size=1, rate_limit_traffic_account_max=40)
    async with serving(settings) as dispatcher:
        simulator.script("503", "503", "503", "503")
        await submit(dispatcher, phones(80))
        await eventually(lambda: len(peers.campaign.recipients) == 80, 60)
    good = sorted(request.arrived_at for request in simulator.requests() if request.status == 200)
    after = [at for at in good if at > good[-1] - timedelta(seconds=1).total_seconds()]
    assert len(after) <= 21, "half of forty a second, and one"


MINUTE = {"sms_batch_size": 500, "probe_after_seconds": 1.0, "mitto_hard_timeout_seconds": 12.0}


@pytest.mark.faults
@pytest.mark.timeout(400)
@pytest.mark.parametrize("behaviour", ["503", "accept-then-503", "never-respond", "reset", "refuse-connections"])
async def test_sixty_thousand_recipients_go_through_a_bad_minute(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers, behaviour: str
) -> None:
    count, size = 60_000, MINUTE["sms_batch_size"]
    wanted = Behaviour(accept=False, response="reset", refuse_connections_seconds=60.0)
    bad = wanted if behaviour == "refuse-connections" else behaviour
    minute = 0.5 if behaviour == "refuse-connections" else 60.0
    await go_through(
        configure, simulator, peers, bad, minute, recipients=count, request_seconds=0.5, patience=250, **MINUTE
    )
    assert_few_are_ambiguous(peers, recipients=count, size=int(size))
