"""The outcome table through the whole stack: one campaign whose every request meets another misbehaviour."""

from __future__ import annotations

from collections import Counter

from bulksms.campaign.v1 import campaign_pb2
from devstack.eventually import eventually_blocking
from devstack.mitto.behaviours import NAMED
from devstack.mitto.client import Simulator
from devstack.mitto.rules import Match
from tests.e2e.shop import Shop
from tests.faults.conftest import BATCH_SIZE
from tests.faults.load import Load, check, patiently
from tests.faults.transitions import TransitionLog

# Without what cannot be noticed; the dispatcher's tests show what becomes of it. Shuffled ids: the response names no
# destination. A single id of an earlier request: replicas know of one another's responses only the bulk id and the
# first id, and nobody knows the ids of a batch that is ambiguous.
STEPS = [name for name in NAMED if name not in {"ids-shuffled", "ids-known"}]
FINAL_REJECTION = 400
NOT_ACCEPTED = {campaign_pb2.RECIPIENT_STATUS_FAILED, campaign_pb2.RECIPIENT_STATUS_UNCONFIRMED}


def test_whatever_the_provider_does_nobody_is_sent_to_twice_and_everybody_has_a_status_and_a_reason(
    simulator: Simulator, shop: Shop, transitions: TransitionLog
) -> None:
    simulator.script(*STEPS, match=Match(path="bulk"))
    recipients = BATCH_SIZE * len(STEPS)
    load = Load(shop, simulator, recipients)
    load.add()
    (campaign_id,) = load.campaigns

    def all_attempted() -> bool:
        return not patiently(lambda: shop.client.campaigns.status(campaign_id)).counters.queued

    eventually_blocking(all_attempted, 100, "every recipient to have been attempted", every_seconds=0.3)
    reconciled = shop.reconcile(campaign_id)
    assert simulator.stats().script_steps_remaining == 0
    assert len(reconciled.recipients) == recipients
    assert all(row.reason for row in reconciled.recipients.values() if row.status in NOT_ACCEPTED)
    times = Counter(message.destination for message in reconciled.accepted)
    assert set(times.values()) == {1}, "nobody twice"

    # Not always a whole batch: while the account is held, a probe of one recipient meets the step.
    rejected = sum(request.messages for request in simulator.requests() if request.status == FINAL_REJECTION)
    (reconciled,) = load.finish()
    check(reconciled, recipients, rejected=rejected)
