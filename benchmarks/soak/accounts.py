"""The accounts at the end: every campaign, every single message, every credit."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.soak.traffic import Traffic
from bulksms.campaign.v1 import campaign_pb2
from bulksms.dispatcher.v1 import messages_pb2
from bulksms.ledger.v1 import ledger_pb2
from bulksms_client import Client
from devstack.mitto.accepted_log import AcceptedMessage, read_accepted
from devstack.reconciliation import Reconciliation

__all__ = ["all_ended", "differences"]

_FINAL = {messages_pb2.MESSAGE_STATUS_DELIVERED, messages_pb2.MESSAGE_STATUS_FAILED}


def all_ended(client: Client, traffic: Traffic) -> Callable[[], bool]:
    """Whether everything has come to its end: each campaign and message is looked at until it is there."""
    campaigns, singles = list(traffic.campaigns), list(traffic.singles)

    def look() -> bool:
        while campaigns and _is_over(client, campaigns[-1]):
            campaigns.pop()
        while singles and client.messages.get(singles[-1]).status in _FINAL:
            singles.pop()
        return not campaigns and not singles

    return look


def differences(client: Client, traffic: Traffic, simulator_log: Path) -> Iterator[str]:
    """Everything that does not add up, a sentence each; the simulator's log is read once for all campaigns."""
    by_sender: defaultdict[str, list[AcceptedMessage]] = defaultdict(list)
    for message in read_accepted(simulator_log):
        by_sender[message.sender].append(message)
    for campaign_id, sender in traffic.campaigns.items():
        for difference in _reconciliation(client, campaign_id, by_sender[sender]).differences():
            yield f"campaign {sender}: {difference}"
    times = Counter(message.text for message in by_sender["SoakCode"])
    twice = [text for text in traffic.singles.values() if times[text] > 1]
    never = [text for text in traffic.singles.values() if not times[text]]
    if twice:
        yield f"{len(twice)} single messages were accepted more than once"
    if never:
        yield f"{len(never)} single messages were never accepted"
    balance = client.credits.balance()
    accepted = sum(map(len, by_sender.values()))
    if balance.captured != accepted:
        yield f"{balance.captured} credits captured, {accepted} messages accepted by the provider"
    if balance.reserved:
        yield f"{balance.reserved} credits still reserved"


def _is_over(client: Client, campaign_id: str) -> bool:
    status = client.campaigns.status(campaign_id)
    if status.state != campaign_pb2.CAMPAIGN_STATE_SENT or status.counters.awaiting_report:
        return False
    reservation = client.credits.reservation(client.campaigns.get(campaign_id).reservation_id)
    return reservation.state == ledger_pb2.RESERVATION_STATE_CLOSED and not reservation.authorized


def _reconciliation(client: Client, campaign_id: str, accepted: list[AcceptedMessage]) -> Reconciliation:
    campaign = client.campaigns.get(campaign_id)
    return Reconciliation(
        campaign=campaign,
        recipients={row.phone: row for row in client.campaigns.recipients(campaign_id)},
        accepted=accepted,
        recount=client.campaigns.recount(campaign_id),
        batches=list(client.queue.batches(campaign_id=campaign_id)),
        reservation=client.credits.reservation(campaign.reservation_id),
    )
