"""Processes die in mid-campaign: nobody gets a text twice, nobody is lost, all sides agree."""

from __future__ import annotations

import pytest

from bulksms.campaign.v1 import campaign_pb2
from devstack.eventually import eventually_blocking
from devstack.mitto.behaviours import Behaviour, Latency
from devstack.mitto.client import Simulator
from devstack.mitto.report_posts import ReportSettings
from devstack.mitto.rules import Rule
from devstack.stack import Stack
from tests.e2e.shop import Shop

UNCONFIRMED = campaign_pb2.RECIPIENT_STATUS_UNCONFIRMED
SLOW = Rule(Behaviour(latency=Latency(constant_seconds=0.5)))


@pytest.mark.parametrize("service", ["campaign", "ledger", "dlr-gateway"])
def test_a_killed_service_costs_nothing_but_time(shop: Shop, stack: Stack, simulator: Simulator, service: str) -> None:
    # A provider that repeats what was not acknowledged: nothing acknowledged may be lost, nothing else is.
    simulator.set_behaviour(rules=[SLOW], reports=ReportSettings(retry_attempts=100, retry_seconds=0.3))
    shop.add_contacts(3_000)
    campaign_id = shop.draft()
    shop.client.campaigns.enqueue(campaign_id)
    wait_for_requests(stack, simulator)
    stack.process(service).kill()
    stack.process(service).start()
    reconciled = shop.finish(campaign_id)
    assert reconciled.differences() == []
    assert len(reconciled.accepted) == 3_000


def test_a_killed_dispatcher_sends_nobody_a_second_text(shop: Shop, stack: Stack, simulator: Simulator) -> None:
    simulator.set_behaviour(rules=[SLOW])
    # Numbers of its own: who is unresolved here would be deferred in the campaigns of other tests.
    shop.add_contacts(3_000, start=5_000_000)
    campaign_id = shop.draft()
    shop.client.campaigns.enqueue(campaign_id)
    for number in (0, 1):
        wait_for_requests(stack, simulator)
        stack.process("dispatcher", number).kill()
    for number in (0, 1):
        stack.process("dispatcher", number).start()

    def all_sent_or_unconfirmed() -> bool:
        return shop.client.campaigns.status(campaign_id).counters.queued == 0

    eventually_blocking(all_sent_or_unconfirmed, 60, "every batch to be sent or known as unconfirmed")

    def only_the_unsent_are_unconfirmed() -> bool:
        reconciled = shop.reconcile(campaign_id)
        accepted = {message.destination for message in reconciled.accepted}
        unconfirmed = {phone for phone, row in reconciled.recipients.items() if row.status == UNCONFIRMED}
        return accepted.isdisjoint(unconfirmed)

    eventually_blocking(only_the_unsent_are_unconfirmed, 120, "delivery reports to resolve what was sent")
    reconciled = shop.reconcile(campaign_id)
    destinations = [message.destination for message in reconciled.accepted]
    assert len(destinations) == len(set(destinations)), "nobody twice"
    statuses = reconciled.statuses()
    assert sum(statuses.values()) == 3_000
    assert statuses["QUEUED"] == 0
    # A batch armed at a kill that did not go out stays unconfirmed: nothing proves it, and it is never sent again.
    assert statuses["UNCONFIRMED"] % 100 == 0
    assert reconciled.recount.consistent


def wait_for_requests(stack: Stack, simulator: Simulator) -> None:
    """Wait until the provider takes a further request."""
    before = simulator.stats().accepted_requests
    eventually_blocking(lambda: simulator.stats().accepted_requests > before, 20, "the provider to get a request")
    stack.check()
