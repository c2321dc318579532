"""Campaigns kept under way while something is done to the stack, and what must be true of them when it is over."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from bulksms.campaign.v1 import campaign_pb2
from bulksms.dispatcher.v1 import queue_pb2
from bulksms_client import BulkSmsError
from devstack.books import Books
from devstack.mitto.client import Simulator
from tests.e2e.shop import Shop, wait_until

T = TypeVar("T")

UNCONFIRMED = campaign_pb2.RECIPIENT_STATUS_UNCONFIRMED
AMBIGUOUS = queue_pb2.BATCH_STATE_AMBIGUOUS
NOT_SENT = queue_pb2.RESOLUTION_NOT_SENT
# Beyond MITTO_HARD_TIMEOUT_SECONDS of these stacks: by then nobody is sending any more what was ambiguous before.
OPERATOR_PATIENCE_SECONDS = 10.0
OUTAGE_PATIENCE_SECONDS = 120.0


class Load:
    """Campaigns of one tenant to the same recipients, again and again: who is in doubt is in all of them."""

    def __init__(self, shop: Shop, simulator: Simulator, recipients: int) -> None:
        self.shop = shop
        self.simulator = simulator
        self.recipients = recipients
        self.campaigns: list[str] = []
        self._accepted_before = simulator.stats().accepted_messages
        shop.add_contacts(recipients)

    def add(self) -> None:
        """Enqueue another campaign."""
        campaign_id, request_id = patiently(self.shop.draft), str(uuid.uuid4())
        patiently(lambda: self.shop.client.campaigns.enqueue(campaign_id, request_id=request_id))
        self.campaigns.append(campaign_id)

    def top_up(self) -> None:
        """Enqueue another campaign when the provider has taken half of the latest one."""
        if self.left() < self.recipients / 2:
            self.add()

    def accepted(self) -> int:
        """How many messages the provider has taken."""
        return self.simulator.stats().accepted_messages - self._accepted_before

    def left(self) -> int:
        """How many messages the provider has not taken yet."""
        return len(self.campaigns) * self.recipients - self.accepted()

    def wait_until_accepted(self, messages: int) -> None:
        """Wait until the provider has taken so many messages in all."""
        wait_until(lambda: self.accepted() >= messages, 90, f"{messages} messages at the provider")

    def finish(self, seconds: float = 120.0) -> list[Books]:
        """Wait until everybody's message is delivered, or known not to be sent, and return the books.

        Delivery reports resolve what was sent. What was not waits for an operator's word, and with it everybody in it
        who is to get another text: he has looked into the provider's log, once nobody could be sending any more.
        """
        quiet_at = time.monotonic() + OPERATOR_PATIENCE_SECONDS
        unfinished = list(self.campaigns)

        def finished() -> bool:
            for campaign_id in list(unfinished):
                counters = patiently(lambda one=campaign_id: self.shop.client.campaigns.status(one)).counters  # type: ignore[misc]
                if counters.unconfirmed and time.monotonic() > quiet_at:
                    self._resolve_what_was_not_sent(campaign_id)
                elif not (counters.queued or counters.unconfirmed or counters.awaiting_report):
                    unfinished.remove(campaign_id)
            return not unfinished

        what = "everybody's message to be delivered or known unsent"
        wait_until(finished, OPERATOR_PATIENCE_SECONDS + seconds, what, every_seconds=0.3)
        return [self.shop.finish(campaign_id, seconds=120) for campaign_id in self.campaigns]

    def _resolve_what_was_not_sent(self, campaign_id: str) -> None:
        client = self.shop.client
        sender = client.campaigns.get(campaign_id).sender
        unsure = {row.phone for row in client.campaigns.recipients(campaign_id, status=UNCONFIRMED)}
        if unsure & {message.destination for message in self.simulator.accepted() if message.sender == sender}:
            return  # there are reports under way
        for batch in client.queue.batches(campaign_id=campaign_id, state=AMBIGUOUS):
            client.queue.resolve(batch.batch_id, NOT_SENT, evidence="not in the provider's log")


def check(books: Books, recipients: int) -> None:
    """Provider's log = dispatcher = campaign = ledger; nobody twice, nobody lost, nobody told what is not so."""
    assert books.differences() == []
    assert len(books.recipients) == recipients, "nobody lost"
    accepted = {message.destination for message in books.accepted}
    not_sent = {phone for phone, row in books.recipients.items() if row.reason == "OPERATOR"}
    assert not_sent == books.recipients.keys() - accepted, "told as not sent: who was not"
    assert books.statuses() == Counter(
        {"DELIVERED": len(accepted)} | ({"FAILED": len(not_sent)} if not_sent else {})
    ), "told as delivered: who was sent to"
    assert books.campaign.state == campaign_pb2.CAMPAIGN_STATE_SENT


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
