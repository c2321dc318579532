"""Storms: dispatchers are killed and frozen at random points of many campaigns; nobody twice, nobody lost.

Seeded. `make test` runs a short one; `make test-faults` runs FAULT_KILLS=200 kills and FAULT_FREEZES=100 freezes over
FAULT_CAMPAIGNS=50 campaigns.
"""

from __future__ import annotations

import os
import random
import secrets
import time
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from bulksms.campaign.v1 import campaign_pb2
from bulksms.dispatcher.v1 import queue_pb2
from bulksms.ledger.v1 import ledger_pb2
from bulksms_client import Client
from devstack.books import Books
from devstack.mitto.behaviours import Behaviour, Latency
from devstack.mitto.client import Simulator
from devstack.mitto.rules import Rule
from devstack.processes import ManagedProcess
from devstack.stack import Stack
from tests.e2e.shop import Shop, wait_until

KILLS = int(os.environ.get("FAULT_KILLS", "4"))
FREEZES = int(os.environ.get("FAULT_FREEZES", "2"))
CAMPAIGNS = int(os.environ.get("FAULT_CAMPAIGNS", "3"))
SEED = int(os.environ.get("FAULT_SEED", "20261122"))
RECIPIENTS = 2_000
UNCONFIRMED = campaign_pb2.RECIPIENT_STATUS_UNCONFIRMED
NOT_SENT = queue_pb2.RESOLUTION_NOT_SENT
# Longer than a lease: the worker wakes up as a zombie.
FREEZE_SECONDS = (0.5, 14.0)


@pytest.mark.timeout(120 + 20 * (KILLS + FREEZES) + 10 * CAMPAIGNS)
def test_a_storm_of_kills_and_freezes_sends_nobody_a_second_text_and_loses_nobody(
    storm_stack: Stack, storm_simulator: Simulator
) -> None:
    storm_simulator.set_behaviour(rules=[Rule(Behaviour(latency=Latency(median_seconds=0.15)))])
    with _client(storm_stack) as client:
        shop = Shop(client, storm_stack)
        shop.add_contacts(RECIPIENTS)
        campaigns: list[str] = []
        with ThreadPoolExecutor(3, thread_name_prefix="storm") as threads:
            storm = _Storm(storm_stack, random.Random(SEED), threads)
            while not storm.over or len(campaigns) < CAMPAIGNS:
                if len(campaigns) < CAMPAIGNS and _queued(client, campaigns[-2:]) < 2 * RECIPIENTS:
                    campaigns.append(shop.draft())
                    client.campaigns.enqueue(campaigns[-1])
                storm.strike()
            storm.calm()
        _wait_until_all_is_told(shop, campaigns)
        books = [_settled(shop, campaign_id) for campaign_id in campaigns]
        for one in books:
            _check(one)
    print(f"\n{storm.kills} kills, {storm.freezes} freezes, seed {SEED}: {_total(books)}")  # noqa: T201


class _Storm:
    """Strikes one dispatcher at a time at random moments; each is brought back in a thread."""

    def __init__(self, stack: Stack, chance: random.Random, threads: ThreadPoolExecutor) -> None:
        self._stack = stack
        self._chance = chance
        self._threads = threads
        self._busy: dict[int, Future[None]] = {}
        self.kills = self.freezes = 0

    @property
    def over(self) -> bool:
        return self.kills >= KILLS and self.freezes >= FREEZES

    def strike(self) -> None:
        """Wait a random moment and strike a dispatcher that is well."""
        time.sleep(self._chance.uniform(0.05, 0.8))
        number = self._chance.randrange(3)
        if self.over or not self._is_well(number):
            return
        process = self._stack.process("dispatcher", number)
        kill = self.freezes >= FREEZES or (self.kills < KILLS and self._chance.random() < KILLS / (KILLS + FREEZES))
        if kill:
            self.kills += 1
            process.kill()
            self._busy[number] = self._threads.submit(process.start)
        else:
            self.freezes += 1
            process.pause()
            self._busy[number] = self._threads.submit(_thaw, process, self._chance.uniform(*FREEZE_SECONDS))

    def calm(self) -> None:
        """Wait until every dispatcher is back."""
        for under_way in self._busy.values():
            under_way.result()

    def _is_well(self, number: int) -> bool:
        under_way = self._busy.get(number)
        if under_way is None or under_way.done():
            if under_way is not None:
                under_way.result()
            return True
        return False


def _thaw(process: ManagedProcess, after_seconds: float) -> None:
    time.sleep(after_seconds)
    process.resume()


def _client(stack: Stack) -> Client:
    client = Client(
        campaign=stack.address("campaign"),
        ledger=stack.address("ledger"),
        dispatcher=stack.address("dispatcher"),
        tenant_id=f"storm-{secrets.token_hex(4)}",
        timeout=30,
    )
    client.credits.open_account()
    client.credits.set_subscription(ledger_pb2.SUBSCRIPTION_STATUS_ACTIVE, reason="test")
    client.credits.grant(RECIPIENTS * CAMPAIGNS)
    return client


def _queued(client: Client, campaigns: list[str]) -> int:
    return sum(client.campaigns.status(campaign_id).counters.queued for campaign_id in campaigns)


def _wait_until_all_is_told(shop: Shop, campaigns: list[str]) -> None:
    """Delivery reports resolve what was sent. What was not waits for an operator's word, and with it everybody in it
    who is to get another text: he has looked into the provider's log.
    """
    client = shop.client

    def told() -> bool:
        time.sleep(2)
        counters = [client.campaigns.status(campaign_id).counters for campaign_id in campaigns]
        for campaign_id, one in zip(campaigns, counters, strict=True):
            if one.unconfirmed:
                _resolve_what_was_not_sent(shop, campaign_id)
        return all(not one.queued and not one.unconfirmed for one in counters)

    wait_until(told, 300, "every batch to be sent or resolved")


def _resolve_what_was_not_sent(shop: Shop, campaign_id: str) -> None:
    books = shop.books(campaign_id)
    unsure = {phone for phone, row in books.recipients.items() if row.status == UNCONFIRMED}
    if unsure & {message.destination for message in books.accepted}:
        return  # there are reports under way
    for batch in books.batches:
        if batch.state == queue_pb2.BATCH_STATE_AMBIGUOUS:
            shop.client.queue.resolve(batch.batch_id, NOT_SENT, evidence="not in the provider's log")


def _settled(shop: Shop, campaign_id: str) -> Books:
    """The books once nothing moves any more: two readings of the counters agree."""

    def still() -> bool:
        before = shop.client.campaigns.status(campaign_id).counters
        time.sleep(0.5)
        return before == shop.client.campaigns.status(campaign_id).counters

    wait_until(still, 60, f"campaign {campaign_id} to come to rest")
    return shop.books(campaign_id)


def _check(books: Books) -> None:
    times = Counter(message.destination for message in books.accepted)
    assert [phone for phone, count in times.items() if count > 1] == [], "nobody twice"
    assert len(books.recipients) == RECIPIENTS, "nobody lost"
    assert books.statuses()["QUEUED"] == 0
    assert books.recount.consistent
    assert books.statuses()["UNCONFIRMED"] == 0
    not_sent = {phone for phone, row in books.recipients.items() if row.reason == "OPERATOR"}
    assert not_sent == books.recipients.keys() - times.keys(), "told as sent: who was"
    assert books.campaign.state == campaign_pb2.CAMPAIGN_STATE_SENT


def _total(books: list[Books]) -> dict[str, int]:
    statuses: Counter[str] = Counter()
    for one in books:
        statuses += one.statuses()
    return {**statuses, "accepted by the provider": sum(len(one.accepted) for one in books)}
