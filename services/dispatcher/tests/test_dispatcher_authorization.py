"""Arm, authorize, send: nothing goes out that the ledger has not allowed, and whom it has allowed once, never again."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pytest
from sqlalchemy import text

from bulksms.dispatcher.v1 import queue_pb2
from bulksms.ledger.v1 import ledger_pb2
from devstack.eventually import eventually
from devstack.mitto.behaviours import Behaviour
from servicekit import errors
from servicekit.database import Database

from .dispatcher_support import TENANT, Dispatcher, Peers, Provider, header, phones, submit, why


async def test_every_request_was_authorized_for_exactly_its_recipients_and_captured_under_its_attempt(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    head = await submit(dispatcher, phones(25))
    await eventually(lambda: peers.ledger.captured == 25)
    asked = sorted((span.first, span.last) for one in peers.ledger.authorized.values() for span in one.positions)
    assert asked == [(0, 9), (10, 19), (20, 24)]
    assert {one.reservation_id for one in peers.ledger.authorized.values()} == {head.reservation_id}
    assert {one.snapshot_digest for one in peers.ledger.authorized.values()} == {head.snapshot_digest}
    assert {capture.attempt_id for capture in peers.ledger.captures.values()} == set(peers.ledger.authorized)
    assert simulator.times_accepted() == {1: 25}


@pytest.mark.parametrize(
    "reason",
    [
        ledger_pb2.REFUSAL_REASON_RESERVATION_NOT_FOUND,
        ledger_pb2.REFUSAL_REASON_RESERVATION_STATE,
        ledger_pb2.REFUSAL_REASON_RESERVATION_EXCEEDED,
        ledger_pb2.REFUSAL_REASON_SNAPSHOT_MISMATCH,
    ],
)
async def test_what_the_ledger_refuses_is_not_sent_and_says_why(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers, reason: Any
) -> None:
    peers.ledger.authorization_refusal = reason
    await submit(dispatcher, phones(10))
    await eventually(lambda: peers.campaign.outcomes == {"FAILED": 10})
    assert {why for _, why, _ in peers.campaign.recipients.values()} == {"NOT_AUTHORIZED"}
    assert simulator.stats().requests == 0
    assert peers.ledger.captured == 0


async def test_while_a_tenant_may_not_send_its_batches_wait_and_say_why(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    peers.ledger.authorization_refusal = ledger_pb2.REFUSAL_REASON_SUBSCRIPTION_INACTIVE
    await submit(dispatcher, phones(10))

    async def waits() -> bool:
        return [why(batch) for batch in await dispatcher.batches()] == ["SUBSCRIPTION_INACTIVE"]

    await eventually(waits)
    assert await dispatcher.states() == {"READY": 1}
    assert simulator.stats().requests == 0


async def test_while_the_ledger_is_away_nothing_is_sent_and_afterwards_everything_once(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    away = asyncio.Event()
    asked = asyncio.Event()

    async def mood(method: str) -> None:
        if method.startswith("Batch") and not away.is_set():
            asked.set()
            raise errors.unavailable("LEDGER_AWAY", f"{method} is not answered.")

    peers.ledger.before_response = mood
    await submit(dispatcher, phones(60))
    await asked.wait()
    await asyncio.sleep(0.5)
    assert simulator.stats().requests == 0
    away.set()
    await eventually(lambda: peers.ledger.captured == 60)
    assert simulator.times_accepted() == {1: 60}
    # The stand-in decided before it failed to answer: those attempts are void, and nobody sent under them.
    assert {capture.attempt_id for capture in peers.ledger.captures.values()} == set(peers.ledger.authorized)


async def test_a_batch_whose_row_is_set_back_after_it_was_sent_is_not_sent_again(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers, database: Database
) -> None:
    await submit(dispatcher, phones(20))
    await eventually(lambda: peers.ledger.captured == 20)
    async with database.begin() as connection:
        await connection.execute(text("DELETE FROM outbox"))
        await connection.execute(text("DELETE FROM report_refreshes"))
        await connection.execute(text("DELETE FROM provider_responses"))
        await connection.execute(text("DELETE FROM attempts"))
        await connection.execute(
            text("UPDATE batches SET state = 1, epoch = 0, attempts = 0, attempt_id = NULL, not_before = now()")
        )

    async def ended() -> bool:
        return await dispatcher.states() == {"ACCEPTED": 2}

    await eventually(ended)
    assert simulator.times_accepted() == {1: 20}
    assert peers.ledger.captured == 20


async def test_of_recipients_an_earlier_attempt_was_allowed_only_the_others_are_sent_to(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers, database: Database
) -> None:
    """As when a database that was set back is filled again: the same people in batches of another cut."""
    head, numbers = header(), phones(10)
    for attempt, positions in (("unresolved", (1, 2, 3)), ("captured", (4, 5))):
        peers.ledger.taken |= dict.fromkeys([(TENANT, head.reservation_id, at) for at in positions], attempt)
    peers.ledger.captures["earlier"] = ledger_pb2.CaptureRequest(attempt_id="captured", units=2)
    await submit(dispatcher, numbers, head)
    await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 7, "AMBIGUOUS": 3})
    assert {
        phone for phone, fact in peers.campaign.recipients.items() if fact[:2] == ("AMBIGUOUS", "SENT_EARLIER")
    } == {*numbers[1:4]}
    sent = {int(message.destination[1:]) for message in simulator.accepted()}
    assert sent == {numbers[0], *numbers[6:]}
    assert simulator.times_accepted() == {1: 5}
    await eventually(lambda: peers.ledger.captured == 7)
    # Who confirms the three has nothing to capture them from: that is the earlier attempt's, and kept for accounting.
    (unresolved,) = await dispatcher.batches(state=queue_pb2.BATCH_STATE_AMBIGUOUS)
    peers.ledger.capture_refusal = ledger_pb2.REFUSAL_REASON_ATTEMPT_NOT_FOUND
    await resolve(dispatcher, unresolved.batch_id, queue_pb2.RESOLUTION_ACCEPTED)
    await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 10})
    await eventually(lambda: _uncaptured(database, 3))


async def _uncaptured(database: Database, units: int) -> bool:
    async with database.connect() as connection:
        total = text("SELECT coalesce(sum(units), 0) FROM uncaptured_credits")
        return bool((await connection.execute(total)).scalar_one() == units)


async def resolve(dispatcher: Dispatcher, batch_id: str, resolution: Any) -> None:
    await dispatcher.queue.ResolveBatch(
        queue_pb2.ResolveBatchRequest(
            request_id=str(uuid.uuid4()), batch_id=batch_id, resolution=resolution, evidence="the provider says so"
        )
    )


async def test_a_yes_that_comes_after_its_time_is_nobody_s(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    """The ledger decided and its answer was lost: the attempt is void, and the next one sends."""
    lost = 0

    async def mood(method: str) -> None:
        nonlocal lost
        if method == "BatchAuthorize" and not lost:
            lost += 1
            raise errors.unavailable("ANSWER_LOST", "The connection broke.")

    peers.ledger.before_response = mood
    await submit(dispatcher, phones(10))
    await eventually(lambda: peers.ledger.captured == 10)
    assert (lost, len(peers.ledger.ended)) == (1, 1)
    assert simulator.times_accepted() == {1: 10}
    (batch,) = await dispatcher.batches()
    assert (batch.epoch, batch.attempts) == (1, 2)


async def test_what_the_provider_refused_is_void_before_it_is_ready_again(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    simulator.script(Behaviour(status=429))
    await submit(dispatcher, phones(10))
    await eventually(lambda: peers.ledger.captured == 10)
    assert len(peers.ledger.ended) == 1
    assert simulator.times_accepted() == {1: 10}


@pytest.mark.parametrize("resolution", [queue_pb2.RESOLUTION_NOT_SENT])
async def test_not_sent_by_an_operator_gives_the_credits_back_and_keeps_the_positions(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers, resolution: Any
) -> None:
    simulator.script(Behaviour(status=500))
    await submit(dispatcher, phones(10))
    await eventually(lambda: peers.campaign.outcomes == {"AMBIGUOUS": 10})
    (batch,) = await dispatcher.batches()
    await resolve(dispatcher, batch.batch_id, resolution)
    await eventually(lambda: len(peers.ledger.releases) == 1)
    (release,) = peers.ledger.releases.values()
    assert (release.units, release.attempt_id) == (10, *peers.ledger.authorized)
    assert len(peers.ledger.taken) == 10
