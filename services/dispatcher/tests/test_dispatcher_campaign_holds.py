"""Why a campaign is not sent just now: of all that holds it, what a person would have to end first."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

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


def test_every_reason_is_one_of_the_contract_s() -> None:
    ours = {f"HOLD_REASON_{reason.name}".replace("_NONE", "_UNSPECIFIED"): int(reason) for reason in HoldReason}
    assert ours == dict(types_pb2.HoldReason.items())
