"""The main path over the whole stack: CSV, credits, campaign, provider, delivery reports, reconciliation."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

from bulksms.campaign.v1 import campaign_pb2
from bulksms.dispatcher.v1 import queue_pb2
from bulksms.ledger.v1 import ledger_pb2
from devstack.eventually import eventually_blocking
from devstack.mitto.behaviours import Behaviour, Latency
from devstack.mitto.client import Simulator
from devstack.mitto.delivery import Delivery, Outcome
from devstack.mitto.report_posts import ReportSettings
from devstack.mitto.rules import Rule
from devstack.span_store import SpanReader
from devstack.stack import Stack
from devstack.tracetree import read_trace
from tests.e2e.shop import Shop

ROOT = Path(__file__).parents[2]
SLOW = Rule(Behaviour(latency=Latency(constant_seconds=1.0)))


def test_the_example_file_goes_out_and_every_line_and_credit_is_accounted_for(shop: Shop, simulator: Simulator) -> None:
    simulator.set_behaviour(delivery=Delivery(outcomes=(Outcome(("Sent", "Failure"), "unreachable", share=0.05),)))
    report = shop.client.contacts.import_csv(ROOT / "examples" / "contacts.csv", region="GR", groups=["customers"])
    assert (report.lines, report.imported, report.duplicates, report.rejected) == (10_000, 9_700, 100, 200)
    listed = list(shop.client.contacts.import_lines(report.import_id))
    assert len(listed) == 300
    assert all(line.reason and line.message and line.line_number > 1 for line in listed)
    campaign_id = shop.draft()
    preview = shop.client.campaigns.preview(campaign_id)
    assert (preview.recipients, preview.credits, list(preview.blockers)) == (9_700, 9_700, [])

    reconciled = shop.send(campaign_id)

    assert reconciled.differences() == []
    assert len(reconciled.accepted) == len(reconciled.recipients) == 9_700
    statuses = reconciled.statuses()
    assert statuses["DELIVERED"] + statuses["FAILED"] == 9_700
    assert 200 < statuses["FAILED"] < 800
    balance = shop.client.credits.balance()
    assert (balance.captured, balance.reserved, balance.available) == (9_700, 0, 90_300)
    assert shop.client.credits.verify().consistent


def test_each_recipient_gets_its_own_text(shop: Shop) -> None:
    rows = ["first_name,last_name,phone", "Νίκη,Π,+306940000001", ",Δ,+306940000002", '"A ""B""",,+306940000003']
    shop.client.contacts.import_csv(_file(rows), groups=["customers"])
    reconciled = shop.send(shop.draft(text="Hi {{first_name|friend}} {{last_name}}|{{first_name}}"))
    assert {message.destination: message.text for message in reconciled.accepted} == {
        "+306940000001": "Hi Νίκη Π|Νίκη",
        "+306940000002": "Hi friend Δ|",
        "+306940000003": 'Hi A "B" |A "B"',
    }
    assert reconciled.differences() == []


def test_opted_out_and_excluded_contacts_get_nothing(shop: Shop) -> None:
    phones = shop.add_contacts(10)
    shop.client.contacts.opt_out(phones[0], source="link")
    reconciled = shop.send(shop.draft())
    assert sorted(reconciled.recipients) == phones[1:]
    assert reconciled.differences() == []


def test_two_tenants_send_to_the_same_numbers_without_mixing_anything(shop: Shop, stack: Stack) -> None:
    other = Shop(shop.client.for_tenant(f"{shop.client.tenant_id}-b"), stack)
    other.client.credits.open_account()
    other.client.credits.set_subscription(ledger_pb2.SUBSCRIPTION_STATUS_ACTIVE, reason="test")
    other.client.credits.grant(1_000)
    campaigns = []
    for one in (shop, other):
        one.add_contacts(600)
        campaigns.append(one.draft())
        one.client.campaigns.enqueue(campaigns[-1])
    for one, campaign_id in zip((shop, other), campaigns, strict=True):
        reconciled = one.finish(campaign_id)
        assert reconciled.differences() == []
        assert len(reconciled.accepted) == 600
    assert other.client.credits.balance().available == 400


def test_a_paused_campaign_sends_nothing_new_and_goes_on_when_resumed(shop: Shop, simulator: Simulator) -> None:
    simulator.set_behaviour(rules=[SLOW])
    shop.add_contacts(5_000)
    campaign_id = shop.draft()
    shop.client.campaigns.enqueue(campaign_id)
    eventually_blocking(lambda: shop.client.campaigns.status(campaign_id).counters.sent > 0, 20, "the first batch")
    shop.client.campaigns.pause(campaign_id)
    eventually_blocking(lambda: not _in_flight(shop, campaign_id), 20, "batches under way to end")
    before = len(shop.reconcile(campaign_id).accepted)
    simulator.reset()
    shop.client.campaigns.resume(campaign_id)
    reconciled = shop.finish(campaign_id)
    assert before < 5_000
    assert reconciled.differences() == []
    assert len(reconciled.accepted) == 5_000


def test_a_cancelled_campaign_gives_back_what_was_not_sent(shop: Shop, simulator: Simulator) -> None:
    simulator.set_behaviour(rules=[SLOW])
    shop.add_contacts(5_000)
    campaign_id = shop.draft()
    shop.client.campaigns.enqueue(campaign_id)
    eventually_blocking(lambda: shop.client.campaigns.status(campaign_id).counters.sent > 0, 20, "the first batch")
    shop.client.campaigns.cancel(campaign_id, reason="typo")
    reconciled = shop.finish(campaign_id)
    assert reconciled.campaign.state == campaign_pb2.CAMPAIGN_STATE_CANCELLED
    assert reconciled.differences() == []
    assert 0 < len(reconciled.accepted) < 5_000
    assert reconciled.statuses()["CANCELLED"] == 5_000 - len(reconciled.accepted)
    assert shop.client.credits.balance().available == 100_000 - len(reconciled.accepted)


def test_delivery_reports_in_any_order_number_and_from_strangers_give_the_same_end(
    shop: Shop, simulator: Simulator
) -> None:
    simulator.set_behaviour(
        delivery=Delivery(outcomes=(Outcome(("Sent", "Failure"), "unreachable", destination_suffix="7"),)),
        reports=ReportSettings(
            duplicated_share=0.3,
            reordered_share=0.5,
            delayed_share=0.2,
            delayed_seconds=0.5,
            unknown_id_share=0.05,
            older_names_share=0.2,
            batch=7,
        ),
    )
    shop.add_contacts(1_000)
    reconciled = shop.send(shop.draft())
    assert reconciled.differences() == []
    assert reconciled.statuses() == Counter(DELIVERED=900, FAILED=100)


def test_the_trace_of_a_campaign_crosses_all_services_from_enqueue_to_report(shop: Shop, stack: Stack) -> None:
    shop.add_contacts(600)
    campaign = shop.send(shop.draft()).campaign
    trace_id = bytes.fromhex(campaign.trace_id)

    def services() -> set[str]:
        return set(read_trace(SpanReader(stack.trace_store), trace_id).services)

    eventually_blocking(
        lambda: services() >= {"campaign", "dispatcher", "ledger", "dlr-gateway"}, 20, "all services' spans"
    )


def test_no_number_and_no_text_reaches_a_log_or_a_span(shop: Shop, stack: Stack) -> None:
    phones = shop.add_contacts(50, start=7_654_000)
    shop.send(shop.draft(text="a very secret offer"))
    needles = ["very secret offer", *(phone[1:] for phone in phones), stack.dlr_secret, stack.simulator.api_key]
    logs = [path for path in (stack.folder / "logs").iterdir() if not path.name.startswith("simulator")]
    places = [*logs, stack.trace_store, stack.trace_store.with_name(stack.trace_store.name + "-wal")]
    for place in places:
        content = place.read_bytes() if place.exists() else b""
        found = [needle for needle in needles if needle.encode() in content]
        assert not found, f"{place.name} holds {len(found)} of them"
    assert len(logs) >= 8


def test_the_readme_s_fifteen_lines_create_and_enqueue_a_campaign(shop: Shop, stack: Stack) -> None:
    shop.add_contacts(3)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    match = re.search(r"<!-- snippet: create-and-enqueue.*?-->\n```python\n(.*?)```", readme, re.DOTALL)
    assert match is not None
    snippet = match[1]
    assert len(snippet.strip().splitlines()) < 15
    environment = os.environ | stack.client_environment | {"BULKSMS_TENANT": shop.client.tenant_id}
    done = subprocess.run(
        [sys.executable, "-c", snippet], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "3 recipients in 1 batches\n"), done.stderr


def _in_flight(shop: Shop, campaign_id: str) -> bool:
    moving = {queue_pb2.BATCH_STATE_LEASED, queue_pb2.BATCH_STATE_ARMED}
    return any(batch.state in moving for batch in shop.client.queue.batches(campaign_id=campaign_id))


def _file(lines: list[str]) -> io.BytesIO:
    return io.BytesIO("\n".join(lines).encode())
