"""Why a campaign is not sent just now: of all that holds it, what a person would have to end first."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from bulksms.dispatcher.v1 import queue_pb2
from bulksms.types.v1 import types_pb2
from bulksms_dispatcher.domain.account_holds import Hold, HoldKind
from bulksms_dispatcher.domain.campaign_holds import (
    CampaignHold,
    HoldReason,
    QueueFacts,
    WaitingBatch,
    WhyNobodySends,
    hold_of,
)
from bulksms_dispatcher.domain.rate_limits import LimitScope
from bulksms_dispatcher.domain.stops import Stop, StopKey, StopScope
from bulksms_dispatcher.settings import Settings
from devstack.eventually import eventually

from .dispatcher_support import TENANT, Dispatcher, Peers, Provider, header, phones, serving, submit, why

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
BEFORE, SOON, JUST_NOW = NOW - timedelta(minutes=5), NOW + timedelta(seconds=30), NOW - timedelta(seconds=1)
NOBODY = WhyNobodySends()
DUE = WaitingBatch("", BEFORE, BEFORE)
FREE = QueueFacts(NOW, None, None, DUE, DUE)
STOP = Stop(StopKey(StopScope.ALL, "", None), "complaints", "maria", BEFORE)
ACCOUNT = Hold(HoldKind.AMBIGUITY, "READ_TIMEOUT", since=BEFORE, failed_at=BEFORE, probe_at=SOON)


def test_nothing_holds_a_campaign_whose_batches_wait_for_their_turn_or_that_has_none() -> None:
    assert hold_of(FREE, NOBODY) == CampaignHold()
    everything_is_away = WhyNobodySends(ACCOUNT, BEFORE, LimitScope.TENANT)
    assert hold_of(replace(FREE, first=None, last=None), everything_is_away) == CampaignHold()


def test_what_a_person_must_end_is_said_before_what_ends_by_itself() -> None:
    facts = replace(FREE, stop=STOP, paused_since=BEFORE, first=WaitingBatch("CONNECT_FAILED", SOON, JUST_NOW))
    everywhere = WhyNobodySends(ACCOUNT, BEFORE, LimitScope.TENANT)
    stopped = hold_of(facts, everywhere)
    assert (stopped.reason, stopped.since, stopped.description) == (HoldReason.STOPPED, BEFORE, "complaints")
    facts = replace(facts, stop=None)
    assert hold_of(facts, everywhere) == CampaignHold(HoldReason.PAUSED, BEFORE)
    facts = replace(facts, paused_since=None)
    assert hold_of(facts, everywhere) == CampaignHold(HoldReason.PACING_UNAVAILABLE, BEFORE)
    everywhere = replace(everywhere, pacing_away_since=None)
    assert hold_of(facts, everywhere) == CampaignHold(HoldReason.BREAKER_OPEN, BEFORE, SOON, "READ_TIMEOUT")
    everywhere = replace(everywhere, account=None)
    assert hold_of(facts, everywhere) == CampaignHold(HoldReason.TENANT_LIMIT)
    waiting = CampaignHold(HoldReason.BATCHES_WAITING, JUST_NOW, SOON, "CONNECT_FAILED")
    assert hold_of(facts, NOBODY) == waiting


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (WaitingBatch("TENANT_LIMIT", SOON, JUST_NOW), HoldReason.TENANT_LIMIT),
        (WaitingBatch("TENANT_LIMIT", BEFORE, BEFORE), HoldReason.NONE),
        (WaitingBatch("EARLIER_MESSAGE_UNRESOLVED", SOON, JUST_NOW), HoldReason.NONE),
    ],
    ids=["a batch came back from the limit", "that was long ago", "one batch alone waits"],
)
def test_batches_that_may_be_sent_are_held_by_a_limit_only_while_one_comes_back_from_it(
    last: WaitingBatch, reason: HoldReason
) -> None:
    assert hold_of(replace(FREE, last=last), NOBODY).reason is reason


def test_every_reason_is_one_of_the_contract_s_and_the_others_are_the_campaign_service_s_own() -> None:
    ours = {f"HOLD_REASON_{reason.name}".replace("_NONE", "_UNSPECIFIED"): int(reason) for reason in HoldReason}
    contract = dict(types_pb2.HoldReason.items())
    assert ours.items() <= contract.items()
    assert contract.keys() - ours.keys() == {"HOLD_REASON_LAUNCHING", "HOLD_REASON_DISPATCHER_UNAVAILABLE"}


async def test_a_paused_campaign_says_since_when_and_so_do_its_batches(dispatcher: Dispatcher, peers: Peers) -> None:
    head = header()
    assert (await dispatcher.hold(head)).reason == types_pb2.HOLD_REASON_UNSPECIFIED
    await dispatcher.pause(head)
    await submit(dispatcher, phones(5), head)
    hold = await dispatcher.hold(head)
    assert (hold.reason, hold.HasField("until")) == (types_pb2.HOLD_REASON_PAUSED, False)
    assert datetime.now(UTC) - hold.since.ToDatetime(UTC) < timedelta(minutes=1)
    assert [why(batch) for batch in await dispatcher.batches()] == ["CAMPAIGN_PAUSED"]
    await dispatcher.resume(head)
    await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 5})


async def set_tenant_limit(dispatcher: Dispatcher, **most: Any) -> None:
    limit = queue_pb2.RateLimit(
        scope=queue_pb2.RATE_LIMIT_SCOPE_TENANT, key=TENANT, window=Duration(nanos=200_000_000), **most
    )
    await dispatcher.queue.SetRateLimit(queue_pb2.SetRateLimitRequest(request_id=str(uuid.uuid4()), limit=limit))


@pytest.mark.parametrize("most", [{"max_requests": 0}, {"max_messages": 0}], ids=["requests", "messages"])
async def test_a_limit_of_0_lets_nothing_of_the_tenant_out_and_says_so_until_it_is_raised(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers, most: dict[str, Any]
) -> None:
    await set_tenant_limit(dispatcher, **most)
    head = await submit(dispatcher, phones(10))
    await submit(dispatcher, phones(10, first=447_700_900_000), header(tenant_id="other"))
    await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 10})

    async def has_met_it() -> bool:
        return [why(batch) for batch in await dispatcher.batches(tenant_id=TENANT)] == ["TENANT_LIMIT"]

    await eventually(has_met_it)
    hold = await dispatcher.hold(head)
    assert (hold.reason, hold.HasField("until")) == (types_pb2.HOLD_REASON_TENANT_LIMIT, False)
    assert simulator.times_accepted() == {1: 10}
    await set_tenant_limit(dispatcher, max_requests=100)
    await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 20})
    assert (await dispatcher.hold(head)).reason == types_pb2.HOLD_REASON_UNSPECIFIED


async def test_settings_of_0_let_nothing_out(configure: Callable[..., Settings], simulator: Provider) -> None:
    for setting, reason in (
        ("rate_limit_traffic_account_max", types_pb2.HOLD_REASON_TRAFFIC_ACCOUNT_LIMIT),
        ("queue_rate_max", types_pb2.HOLD_REASON_GLOBAL_LIMIT),
    ):
        async with serving(configure(**{setting: 0})) as dispatcher:
            head = await submit(dispatcher, phones(5))
            assert (await dispatcher.hold(head)).reason == reason
            await dispatcher.pause(head)
    assert simulator.stats().requests == 0


async def test_at_its_limit_a_campaign_says_until_when(dispatcher: Dispatcher, peers: Peers) -> None:
    await set_tenant_limit(dispatcher, max_requests=1)
    head = await submit(dispatcher, phones(60))

    async def at_the_limit() -> Any:
        hold = await dispatcher.hold(head)
        return hold if hold.reason == types_pb2.HOLD_REASON_TENANT_LIMIT else None

    hold = await eventually(at_the_limit)
    assert hold.HasField("until")
    assert types_pb2.OutcomeReason.Name(hold.batch_reason) == "OUTCOME_REASON_TENANT_LIMIT"
    await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 60})
