"""People give orders at random while two replicas send: stop, go, pause, resume, cancel, opt out, submit again.

Judged by the provider's log and the attempts: nobody gets a text twice, nothing is armed against an order that has been
acknowledged, and in the end nothing is stuck. Each guard switched off must be found out.
"""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Any

import pytest
from sqlalchemy import text

from bulksms.campaign.v1 import results_pb2
from bulksms.dispatcher.v1 import dispatch_pb2 as pb
from bulksms.dispatcher.v1 import queue_pb2
from bulksms.types.v1 import types_pb2
from bulksms_dispatcher.settings import Settings
from bulksms_dispatcher.storage import claims, take_backs
from bulksms_dispatcher.storage.stops import is_arm_stopped
from bulksms_dispatcher.workers.preparation import Preparation
from devstack.eventually import eventually
from servicekit.database import Database

from .dispatcher_support import Dispatcher, Peers, Provider, chunks, header, naming, phones, serving, stream, submit

pytestmark = pytest.mark.slow

TENANTS = ("acme", "other")
CAMPAIGNS, PEOPLE, ORDERS = 6, 60, 60
MARKETING, SERVICE = types_pb2.MESSAGE_CLASS_MARKETING, types_pb2.MESSAGE_CLASS_SERVICE
# Without the guard an arm asks for everything but this.
GUARDS = {
    "stop": (is_arm_stopped("b"), "false"),
    "pause": ("SELECT c.paused OR c.cancelled", "SELECT c.cancelled"),
    "opt-out": ("o.version > :opt_out_version", "false"),
}


@dataclass
class Order:
    """Nothing of these campaigns, or nothing to this number of the tenant's, is armed in this time."""

    what: str
    campaigns: Sequence[str]
    since: datetime
    phone: int | None = None
    until: datetime | None = None


@dataclass
class People:
    """Operators and shops, who remember what was acknowledged to them, and when."""

    replicas: Sequence[Dispatcher]
    database: Database
    random: Random
    heads: dict[str, pb.SubmissionHeader] = field(default_factory=dict)
    orders: list[Order] = field(default_factory=list)
    standing: dict[tuple[Any, ...], Order] = field(default_factory=dict)
    cancelled: set[str] = field(default_factory=set)

    @property
    def dispatcher(self) -> Dispatcher:
        return self.random.choice(self.replicas)

    async def now(self) -> datetime:
        async with self.database.connect() as connection:
            moment: datetime = (await connection.execute(text("SELECT clock_timestamp()"))).scalar_one()
            return moment

    async def act(self) -> None:
        """Orders are soon taken back, or nothing would be left to go wrong."""
        if len(self.standing) > 1:
            await self.random.choice([self.resume, self.go])()
        else:
            await self.random.choice([self.pause, self.pause, self.stop, self.stop, self.opt_out, self.repeat])()

    async def pause(self) -> None:
        in_hand = await self._in_hand()
        campaign_id = str(self.random.choice(in_hand).campaign_id) if in_hand else self.random.choice(list(self.heads))
        head = self.heads[campaign_id]
        await self.dispatcher.pause(head)
        await self._stands(("pause", head.campaign_id), "pause", [head.campaign_id])

    async def resume(self) -> None:
        pauses = [target for target in self.standing if target[0] == "pause"]
        if pauses:
            await self._ends(target := self.random.choice(pauses))
            await self.dispatcher.resume(self.heads[target[1]])

    async def stop(self) -> None:
        scope, key, message_class = await self._target()
        await self.dispatcher.queue.StopSending(
            queue_pb2.StopSendingRequest(
                request_id=str(uuid.uuid4()), scope=scope, key=key, message_class=message_class, reason="complaints"
            )
        )
        concerned = [
            head.campaign_id
            for head in self.heads.values()
            if key in ("", head.tenant_id) and message_class in (0, head.message_class)
        ]
        await self._stands(("stop", scope, key, message_class), "stop", concerned)

    async def go(self) -> None:
        stops = [target for target in self.standing if target[0] == "stop"]
        if not stops:
            return
        _, scope, key, message_class = target = self.random.choice(stops)
        await self._ends(target)
        await self.dispatcher.queue.ResumeSending(
            queue_pb2.ResumeSendingRequest(
                request_id=str(uuid.uuid4()), scope=scope, key=key, message_class=message_class, reason="looked at"
            )
        )

    async def opt_out(self) -> None:
        """Just when a batch with the number is in a sender's hands."""
        in_hand = await self._in_hand()
        if not in_hand:
            return
        chosen = self.random.choice(in_hand)
        tenant_id, phone = chosen.tenant_id, chosen.first_phone
        await self.dispatcher.dispatch.RecordOptOuts(
            pb.RecordOptOutsRequest(request_id=str(uuid.uuid4()), tenant_id=tenant_id, phones=[phone])
        )
        concerned = [head.campaign_id for head in self.heads.values() if head.tenant_id == tenant_id]
        self.orders.append(Order("opt-out", concerned, await self.now(), phone))

    async def repeat(self) -> None:
        """A submission that is streamed once more: its answer was lost."""
        head = self.random.choice(list(self.heads.values()))
        if head.campaign_id not in self.cancelled:
            await self.dispatcher.dispatch.Submit(stream(head, chunks(phones(PEOPLE)), PEOPLE))

    async def cancel_one(self) -> None:
        head = list(self.heads.values())[-1]
        self.cancelled.add(head.campaign_id)
        await self.dispatcher.dispatch.CancelCampaign(pb.CancelCampaignRequest(**naming(head)))
        self.orders.append(Order("cancel", [head.campaign_id], await self.now()))

    async def end_all(self) -> None:
        for target in list(self.standing):
            if target[0] == "pause":
                await self._ends(target)
                await self.dispatcher.resume(self.heads[target[1]])
            else:
                _, scope, key, message_class = target
                await self._ends(target)
                await self.dispatcher.queue.ResumeSending(
                    queue_pb2.ResumeSendingRequest(
                        request_id=str(uuid.uuid4()), scope=scope, key=key, message_class=message_class, reason="over"
                    )
                )

    async def _in_hand(self) -> Sequence[Any]:
        """Batches between their claim and their arm."""
        async with self.database.connect() as connection:
            leased = "SELECT tenant_id, campaign_id, first_phone FROM batches WHERE state = 2"
            return (await connection.execute(text(leased))).all()

    async def _target(self) -> tuple[Any, str, Any]:
        """Whose message is just going out, often."""
        in_hand = await self._in_hand()
        head = self.heads[str(self.random.choice(in_hand).campaign_id)] if in_hand else next(iter(self.heads.values()))
        message_class = self.random.choice([0, 0, head.message_class])
        if self.random.random() < 0.3:
            return queue_pb2.STOP_SCOPE_ALL, "", message_class
        return queue_pb2.STOP_SCOPE_TENANT, head.tenant_id, message_class

    async def _stands(self, target: tuple[Any, ...], what: str, campaigns: Sequence[str]) -> None:
        if target not in self.standing:
            self.standing[target] = Order(what, campaigns, await self.now())
            self.orders.append(self.standing[target])

    async def _ends(self, target: tuple[Any, ...]) -> None:
        """From before it is asked for."""
        if target in self.standing:
            self.standing.pop(target).until = await self.now()


async def storm(configure: Callable[..., Settings], database: Database, peers: Peers, seed: int) -> People:
    """Until nothing is left to send."""
    settings = configure(sms_batch_size=4, rate_limit_traffic_account_max=20, worker_concurrency=4)
    async with serving(settings) as one, serving(settings) as two:
        people = People([one, two], database, Random(seed))
        for number in range(CAMPAIGNS):
            head = header(
                tenant_id=TENANTS[number % 2],
                message_class=MARKETING if number % 3 else SERVICE,
                text=f"Campaign {number} of storm {seed}",
            )
            people.heads[head.campaign_id] = head
            await submit(one, phones(PEOPLE), head)
        for number in range(ORDERS):
            await people.act()
            if number == ORDERS // 8:
                await people.cancel_one()
            await asyncio.sleep(people.random.uniform(0.0, 0.1))
        await people.end_all()

        async def is_over() -> bool:
            return sum(campaign_id in people.heads for campaign_id, _ in outcomes(peers)) == CAMPAIGNS * PEOPLE

        await eventually(is_over, within_seconds=60)
    return people


def outcomes(peers: Peers) -> dict[tuple[str, int], str]:
    """By campaign and number."""
    return {
        (result.campaign_id, phone): results_pb2.RecipientOutcome.Name(group.outcome)
        for result in peers.campaign.results
        for group in result.groups
        for phone in group.phones
    }


async def violations(people: People, simulator: Provider) -> set[str]:
    """What must never be: by the attempts' own times, and by what the provider was really asked to send."""
    async with people.database.connect() as connection:
        rows = await connection.execute(
            text("""
                SELECT b.campaign_id, b.first_phone, b.last_phone, a.armed_at, a.outcome FROM attempts a
                JOIN batches b ON b.batch_id = a.batch_id AND b.tenant_id = a.tenant_id
                WHERE a.armed_at IS NOT NULL
            """)
        )
        attempts = [(str(row.campaign_id), row.first_phone, row.last_phone, row.armed_at) for row in rows]
    texts = {head.campaign_id: head.text for head in people.heads.values()}
    sent = Counter((message.text, int(message.destination[1:])) for message in simulator.accepted())
    found = {"twice" for times in sent.values() if times > 1}
    for order in people.orders:
        for campaign_id, first, last, armed_at in attempts:
            during = order.since < armed_at and (order.until is None or armed_at < order.until)
            if campaign_id not in order.campaigns or not during:
                continue
            if order.phone is None or (first <= order.phone <= last and sent[texts[campaign_id], order.phone]):
                found.add(order.what)
    return found


@pytest.fixture(autouse=True)
def slow_preparation(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that there is always a batch between its claim and its arm."""
    prepare, random = Preparation.prepare, Random(3)

    async def slowly(self: Preparation, *arguments: Any) -> Any:
        prepared = await prepare(self, *arguments)
        await asyncio.sleep(random.uniform(0.1, 0.3))
        return prepared

    monkeypatch.setattr(Preparation, "prepare", slowly)


async def test_whatever_people_order_nobody_gets_a_text_twice_or_against_an_order_and_nothing_is_stuck(
    configure: Callable[..., Settings], database: Database, simulator: Provider, peers: Peers
) -> None:
    people = await storm(configure, database, peers, seed=11)
    assert {order.what for order in people.orders} == {"pause", "stop", "opt-out", "cancel"}
    assert await violations(people, simulator) == set()
    ends = Counter(outcomes(peers).values())
    assert ends["RECIPIENT_OUTCOME_ACCEPTED"] == sum(1 for _ in simulator.accepted())
    assert set(ends) <= {
        "RECIPIENT_OUTCOME_ACCEPTED", "RECIPIENT_OUTCOME_OPTED_OUT", "RECIPIENT_OUTCOME_CANCELLED"
    }  # fmt: skip
    await eventually(lambda: peers.ledger.captured == ends["RECIPIENT_OUTCOME_ACCEPTED"])


@pytest.mark.parametrize("guard", GUARDS)
async def test_a_guard_that_is_switched_off_is_found_out(
    configure: Callable[..., Settings],
    database: Database,
    simulator: Provider,
    peers: Peers,
    monkeypatch: pytest.MonkeyPatch,
    guard: str,
) -> None:
    asked, never = GUARDS[guard]
    assert asked in claims._ARM.text
    monkeypatch.setattr(claims, "_ARM", text(claims._ARM.text.replace(asked, never)))

    async def nothing(*_: object) -> int:
        return 0

    monkeypatch.setattr(take_backs, "of_campaign", nothing)
    monkeypatch.setattr(take_backs, "with_numbers", nothing)
    found: set[str] = set()
    for seed in (11, 12, 13):  # people are not always unlucky
        found |= await violations(await storm(configure, database, peers, seed), simulator)
        if guard in found:
            break
    assert guard in found
