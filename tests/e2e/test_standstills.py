"""A campaign that is not sent says why, and what is not sent in time never is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from bulksms.campaign.v1 import campaign_pb2
from bulksms.dispatcher.v1 import queue_pb2
from bulksms.types.v1 import types_pb2
from bulksms_client import Client
from devstack.eventually import eventually_blocking
from devstack.mitto.client import Simulator
from tests.e2e.shop import Shop

SENT, FAILED = campaign_pb2.CAMPAIGN_STATE_SENT, campaign_pb2.CAMPAIGN_STATE_FAILED
NOTHING = types_pb2.HOLD_REASON_UNSPECIFIED


def held_by(client: Client, campaign_id: str) -> types_pb2.HoldReason.ValueType:
    """What its status says that holds it."""
    return client.campaigns.status(campaign_id).hold.reason


def test_a_stopped_and_a_paused_campaign_say_so_until_it_goes_on(shop: Shop, simulator: Simulator) -> None:
    client = shop.client
    tenant = queue_pb2.STOP_SCOPE_TENANT, client.tenant_id
    shop.add_contacts(250)
    client.queue.stop(*tenant, reason="wrong prices in the text")
    campaign_id = shop.draft()
    client.campaigns.enqueue(campaign_id)
    eventually_blocking(lambda: held_by(client, campaign_id) == types_pb2.HOLD_REASON_STOPPED, 20, "STOPPED")
    assert client.campaigns.status(campaign_id).hold.description == "wrong prices in the text"
    assert shop.reconcile(campaign_id).accepted == []
    client.campaigns.pause(campaign_id)
    # The dispatcher hears of the pause within a second; until then the stop's end lets something out.
    client.queue.resume(*tenant, reason="text corrected")
    eventually_blocking(lambda: held_by(client, campaign_id) == types_pb2.HOLD_REASON_PAUSED, 20, "PAUSED")
    client.campaigns.resume(campaign_id)
    reconciled = shop.finish(campaign_id)
    assert (reconciled.differences(), len(reconciled.accepted)) == ([], 250)
    assert held_by(client, campaign_id) == NOTHING


def test_what_could_not_go_out_by_its_end_fails_and_its_credits_come_back(shop: Shop, simulator: Simulator) -> None:
    client = shop.client
    shop.add_contacts(250)
    campaign_id = shop.draft()
    client.campaigns.update(campaign_id, not_after=datetime.now(UTC) + timedelta(seconds=5))
    client.campaigns.enqueue(campaign_id)
    client.campaigns.pause(campaign_id)
    before = client.credits.balance().available
    reconciled = shop.finish(campaign_id, until_delivered=False)
    assert reconciled.differences() == []
    late = [row for row in reconciled.recipients.values() if row.reason == types_pb2.OUTCOME_REASON_TOO_LATE]
    assert len(late) + len(reconciled.accepted) == 250
    assert late, "paused at once, so that most of it is late"
    assert reconciled.campaign.state == (SENT if reconciled.accepted else FAILED)
    assert client.credits.balance().available == before + len(late)
