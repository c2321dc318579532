"""Campaigns kept under way while something is done to the stack, and what must be true of them when it is over."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from bulksms.campaign.v1 import campaign_pb2
from bulksms.dispatcher.v1 import queue_pb2
from bulksms.types.v1 import types_pb2
from bulksms_client import BulkSmsError
from devstack.eventually import eventually_blocking
from devstack.mitto.client import Simulator
from devstack.reconciliation import Reconciliation
from tests.e2e.shop import Shop

T = TypeVar("T")

FAILED = campaign_pb2.RECIPIENT_STATUS_FAILED
UNCONFIRMED = campaign_pb2.RECIPIENT_STATUS_UNCONFIRMED
AMBIGUOUS = queue_pb2.BATCH_STATE_AMBIGUOUS
NOT_SENT = queue_pb2.RESOLUTION_NOT_SENT
# By an operator's resolution, or by a worker thawed after the reaper had come, which has not sent and never will.
RESOLVED_AS_NOT_SENT = {types_pb2.OUTCOME_REASON_OPERATOR, types_pb2.OUTCOME_REASON_NOT_SENT}
# Beyond MITTO_HARD_TIMEOUT_SECONDS of these stacks: by then nobody is sending any more what was ambiguous before.
OPERATOR_PATIENCE_SECONDS = 10.0
OUTAGE_PATIENCE_SECONDS = 120.0


class Load:
    """Campaigns of one tenant, to one audience after the other and round again.

    Whoever is unresolved after one campaign is deferred in the next ones to the same audience. So that this doesn't
    bring everything to a stop, there must be more audiences the more is done to the stack.
    """

    def __init__(self, shop: Shop, simulator: Simulator, recipients: int, *, audiences: int = 1) -> None:
        self.shop = shop
        self.simulator = simulator
        self.recipients = recipients
        self.campaigns: list[str] = []
        self._accepted_before = simulator.stats().accepted_messages
        self._audiences = [f"audience-{number}" for number in range(audiences)]
        for number, group in enumerate(self._audiences):
            shop.add_contacts(recipients, group=group, start=number * recipients)

    def add(self) -> None:
        """Enqueue another campaign."""
        audience = self._audiences[len(self.campaigns) % len(self._audiences)]
        campaign_id, request_id = patiently(lambda: self.shop.draft(groups=(audience,))), str(uuid.uuid4())
        patiently(lambda: self.shop.client.campaigns.enqueue(campaign_id, request_id=request_id))
        self.campaigns.append(campaign_id)

    def top_up(self) -> None:
        """Enqueue another campaign when half of the latest one has been attempted.

        The provider may have taken what campaign does not know of yet, and what is unresolved it may never take:
        whichever says first that little is left is right.
        """
        half = self.recipients / 2
        if not self.campaigns or self.left() < half or self._counters(self.campaigns[-1]).queued < half:
            self.add()

    def accepted(self) -> int:
        """How many messages the provider has taken."""
        return self.simulator.stats().accepted_messages - self._accepted_before

    def left(self) -> int:
        """How many messages the provider has not taken yet."""
        return len(self.campaigns) * self.recipients - self.accepted()

    def wait_until_accepted(self, messages: int) -> None:
        """Wait until the provider has taken so many messages in all."""
        eventually_blocking(lambda: self.accepted() >= messages, 90, f"{messages} messages at the provider")

    def finish(self, seconds: float = 120.0) -> list[Reconciliation]:
        """Wait until everybody's message is delivered, or known not to be sent, and reconcile.

        Delivery reports resolve what was sent. What was not waits for an operator's resolution, and with it everybody
        in it who is to get another text: he has looked into the provider's log, once nobody could be sending any more.
        """
        quiet_at = time.monotonic() + OPERATOR_PATIENCE_SECONDS
        unfinished = list(self.campaigns)

        def finished() -> bool:
            for campaign_id in list(unfinished):
                counters = self._counters(campaign_id)
                if counters.unconfirmed and time.monotonic() > quiet_at:
                    self._resolve_what_was_not_sent(campaign_id)
                elif not (counters.queued or counters.unconfirmed or counters.awaiting_report):
                    unfinished.remove(campaign_id)
            return not unfinished

        what = "everybody's message to be delivered or known unsent"
        eventually_blocking(finished, OPERATOR_PATIENCE_SECONDS + seconds, what, every_seconds=0.3)
        return [self.shop.finish(campaign_id, seconds=120) for campaign_id in self.campaigns]

    def _counters(self, campaign_id: str) -> campaign_pb2.CampaignCounters:
        return patiently(lambda: self.shop.client.campaigns.status(campaign_id)).counters

    def _resolve_what_was_not_sent(self, campaign_id: str) -> None:
        """Only when nobody can be sending any of it, and campaign knows of all of it."""
        client = self.shop.client
        ambiguous = list(client.queue.batches(campaign_id=campaign_id, state=AMBIGUOUS))
        latest = datetime.now(UTC) - timedelta(seconds=OPERATOR_PATIENCE_SECONDS)
        unsure = {row.phone for row in client.campaigns.recipients(campaign_id, status=UNCONFIRMED)}
        if any(batch.updated_at.ToDatetime(UTC) > latest for batch in ambiguous):
            return
        if len(unsure) != sum(batch.recipients for batch in ambiguous):
            return  # campaign knows of fewer or more just now
        sender = client.campaigns.get(campaign_id).sender
        if unsure & {message.destination for message in self.simulator.accepted() if message.sender == sender}:
            return  # there are reports under way
        for batch in ambiguous:
            client.queue.resolve(batch.batch_id, NOT_SENT, evidence="not in the provider's log")


def check(reconciled: Reconciliation, recipients: int, *, rejected: int = 0) -> None:
    """Provider's log = dispatcher = campaign = ledger; nobody twice, nobody lost, no status that is not so.

    `rejected` of them by the provider for good, each with a reason.
    """
    assert reconciled.differences() == []
    assert len(reconciled.recipients) == recipients, "nobody lost"
    accepted = {message.destination for message in reconciled.accepted}
    failed = {phone: row.reason for phone, row in reconciled.recipients.items() if row.status == FAILED}
    assert failed.keys() == reconciled.recipients.keys() - accepted, "recorded as not sent: who was not"
    assert sum(reason not in RESOLVED_AS_NOT_SENT for reason in failed.values()) == rejected
    assert reconciled.statuses() == +Counter(DELIVERED=len(accepted), FAILED=len(failed)), (
        "recorded as delivered: who was sent to"
    )
    assert reconciled.campaign.state == campaign_pb2.CAMPAIGN_STATE_SENT


def patiently(call: Callable[[], T]) -> T:
    """What a client does that meets a service which is away: call again, as long as the error says that it may."""
    deadline = time.monotonic() + OUTAGE_PATIENCE_SECONDS
    while True:
        try:
            return call()
        except BulkSmsError as error:
            if not error.retryable or time.monotonic() > deadline:
                raise
        time.sleep(0.2)
