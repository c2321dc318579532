"""A tenant at work in an end-to-end test, and waiting for things to happen."""

from __future__ import annotations

import io
import secrets
from collections.abc import Sequence

from bulksms.campaign.v1 import campaign_pb2
from bulksms.ledger.v1 import ledger_pb2
from bulksms_client import Client
from devstack.eventually import eventually_blocking
from devstack.reconciliation import Reconciliation, reconcile
from devstack.stack import Stack

ENDED = {
    campaign_pb2.CAMPAIGN_STATE_SENT,
    campaign_pb2.CAMPAIGN_STATE_FAILED,
    campaign_pb2.CAMPAIGN_STATE_CANCELLED,
}


class Shop:
    """A tenant at work: contacts and campaigns with senders of their own, and what became of them."""

    def __init__(self, client: Client, stack: Stack) -> None:
        self.client = client
        self.stack = stack

    def add_contacts(self, count: int, *, group: str = "customers", start: int = 0) -> list[str]:
        """Import Greek mobile numbers and return them."""
        phones = [f"+3069{40_000_000 + start + number}" for number in range(count)]
        lines = "".join(f"Νίκη,{phone}\n" for phone in phones)
        self.client.contacts.import_csv(io.BytesIO(f"first_name,phone\n{lines}".encode()), groups=[group])
        return phones

    def draft(self, *, groups: Sequence[str] = ("customers",), text: str = "Γεια {{first_name|φίλε}}!") -> str:
        """Create a campaign with a sender nobody else uses and return its id."""
        sender = f"S{secrets.token_hex(5)}"[:11]
        return self.client.campaigns.create(name="test", text=text, sender=sender, groups=groups).campaign_id

    def send(self, campaign_id: str, *, until_delivered: bool = True) -> Reconciliation:
        """Enqueue, wait for the end and reconcile."""
        self.client.campaigns.enqueue(campaign_id)
        return self.finish(campaign_id, until_delivered=until_delivered)

    def finish(self, campaign_id: str, *, until_delivered: bool = True, seconds: float = 60) -> Reconciliation:
        """Wait until the campaign ended, its reports are in and its reservation is closed; reconcile."""

        def done() -> bool:
            status = self.client.campaigns.status(campaign_id)
            waiting = until_delivered and status.counters.awaiting_report > 0
            return status.state in ENDED and not waiting and self._closed(campaign_id)

        eventually_blocking(done, seconds, f"campaign {campaign_id} to end")
        return self.reconcile(campaign_id)

    def reconcile(self, campaign_id: str) -> Reconciliation:
        """Reconcile the campaign as it is."""
        return reconcile(self.client, self.stack.simulator.log_path, campaign_id)

    def _closed(self, campaign_id: str) -> bool:
        reservation = self.client.credits.reservation(self.client.campaigns.get(campaign_id).reservation_id)
        return reservation.state == ledger_pb2.RESERVATION_STATE_CLOSED and not reservation.authorized
