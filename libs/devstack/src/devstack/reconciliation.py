"""A campaign reconciled: what the provider accepted, the recipients, the batches and the credits, laid side by side.

The simulator's log is the ground truth. A campaign is known in it by its sender, so give each campaign
that is to be reconciled a sender of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bulksms.campaign.v1 import campaign_pb2
from bulksms.dispatcher.v1 import queue_pb2
from bulksms.ledger.v1 import ledger_pb2
from bulksms_client import Client
from devstack.mitto.accepted_log import AcceptedMessage, read_accepted

_EXAMPLES_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """The figures of one campaign from all sides."""

    campaign: campaign_pb2.Campaign
    recipients: dict[str, campaign_pb2.Recipient]
    """By phone."""
    accepted: list[AcceptedMessage]
    """What the provider's log has of this campaign, in its order."""
    recount: campaign_pb2.RecountCampaignResponse
    batches: list[queue_pb2.Batch]
    reservation: ledger_pb2.Reservation

    def statuses(self) -> Counter[str]:
        """Recipients by status, without the enum's prefix."""
        names = campaign_pb2.RecipientStatus.Name
        return Counter(
            names(recipient.status).removeprefix("RECIPIENT_STATUS_") for recipient in self.recipients.values()
        )

    def differences(self) -> list[str]:
        """Everything that does not add up, a sentence each; empty when all sides agree."""
        return [*self._provider(), *self._counters(), *self._queue(), *self._credits()]

    def _provider(self) -> Iterator[str]:
        """The provider's log against the recipients: no one twice, no one missing, each id at its own recipient."""
        times = Counter(message.destination for message in self.accepted)
        yield from _some("accepted more than once", [phone for phone, count in times.items() if count > 1])
        yield from _some("accepted but no recipient", [phone for phone in times if phone not in self.recipients])
        ids = {message.destination: message.message_id for message in self.accepted}
        known = {phone: row.provider_message_id for phone, row in self.recipients.items() if row.provider_message_id}
        yield from _some("with an id the provider does not know", [p for p in known if p not in ids])
        yield from _some("with another recipient's id", [p for p in known if ids.get(p, known[p]) != known[p]])
        open_ends = campaign_pb2.RECIPIENT_STATUS_UNCONFIRMED
        yield from _some(
            "accepted by the provider without our knowing it",
            [p for p in ids if p in self.recipients and p not in known and self.recipients[p].status != open_ends],
        )

    def _counters(self) -> Iterator[str]:
        """The counters against the rows."""
        if not self.recount.consistent:
            yield f"counters differ from rows: kept {self.recount.kept}, counted {self.recount.counted}"
        kept, statuses = self.recount.kept, self.statuses()
        for name, figure in (
            ("QUEUED", kept.queued),
            ("FAILED", kept.failed),
            ("UNCONFIRMED", kept.unconfirmed),
            ("CANCELLED", kept.cancelled),
            ("DELIVERED", kept.delivered),
        ):
            if statuses[name] != figure:
                yield f"{figure} counted as {name}, {statuses[name]} listed"
        if kept.total != len(self.recipients):
            yield f"total is {kept.total}, {len(self.recipients)} recipients listed"
        reasonless = [
            phone
            for phone, row in self.recipients.items()
            if not row.reason
            and row.status in {campaign_pb2.RECIPIENT_STATUS_FAILED, campaign_pb2.RECIPIENT_STATUS_UNCONFIRMED}
        ]
        yield from _some("without a reason for their status", reasonless)

    def _queue(self) -> Iterator[str]:
        """The dispatcher's batches against the counters; only for a campaign enqueued once."""
        if self.campaign.enqueue_number != 1:
            return
        queued = sum(batch.recipients for batch in self.batches)
        cancelled = self.recount.kept.cancelled
        if not self.recount.kept.total - cancelled <= queued <= self.recount.kept.total:
            yield f"{queued} recipients in batches, {self.recount.kept.total} in the campaign"
        accepted = sum(b.recipients for b in self.batches if b.state == queue_pb2.BATCH_STATE_ACCEPTED)
        if accepted < self.recount.kept.accepted:
            yield f"{accepted} recipients in accepted batches, {self.recount.kept.accepted} accepted in the campaign"

    def _credits(self) -> Iterator[str]:
        """The reservation against what was accepted."""
        reservation = self.reservation
        sides = {
            "open": reservation.open,
            "authorized": reservation.authorized,
            "captured": reservation.captured,
            "released": reservation.released,
        }
        if reservation.units != sum(sides.values()):
            yield f"{reservation.units} reserved: {', '.join(f'{units} {side}' for side, units in sides.items())}"
        if reservation.captured != self.recount.kept.accepted:
            yield f"{reservation.captured} credits captured, {self.recount.kept.accepted} messages accepted"
        if reservation.state != ledger_pb2.RESERVATION_STATE_CLOSED:
            yield "the reservation is not closed"


def reconcile(client: Client, simulator_log: Path, campaign_id: str) -> Reconciliation:
    """Read a campaign's figures through the public calls and from the simulator's log."""
    campaign = client.campaigns.get(campaign_id)
    return Reconciliation(
        campaign=campaign,
        recipients={row.phone: row for row in client.campaigns.recipients(campaign_id)},
        accepted=[message for message in read_accepted(simulator_log) if message.sender == campaign.sender],
        recount=client.campaigns.recount(campaign_id),
        batches=list(client.queue.batches(campaign_id=campaign_id)),
        reservation=client.credits.reservation(campaign.reservation_id),
    )


def _some(what: str, phones: list[str]) -> Iterator[str]:
    if phones:
        yield f"{len(phones)} recipients {what}, for instance {', '.join(sorted(phones)[:_EXAMPLES_SHOWN])}"
