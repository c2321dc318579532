"""Between claim and arm: what comes in between stops the send, and nothing but that batch."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text

from bulksms.dispatcher.v1 import dispatch_pb2 as pb
from bulksms_dispatcher.domain.batches import Lane
from bulksms_dispatcher.settings import Settings
from bulksms_dispatcher.storage import claims, take_backs
from devstack.eventually import eventually
from servicekit.database import Database

from .dispatcher_support import (
    ACCOUNT,
    TENANT,
    Dispatcher,
    Peers,
    Provider,
    arm_as,
    header,
    naming,
    phones,
    serving,
    submit,
)

Between = Callable[[], Awaitable[Any]]


@asynccontextmanager
async def arms_waiting(database: Database, count: int) -> AsyncIterator[Between]:
    """Every arm waits in the database; the block is given what waits until so many do."""

    async def waiting() -> None:
        async with database.autocommit() as connection:
            await eventually(lambda: _waiting(connection, count))

    async with database.begin() as connection:
        await connection.execute(text("LOCK TABLE attempts IN EXCLUSIVE MODE"))
        yield waiting


async def _waiting(connection: Any, count: int) -> bool:
    locks = text("SELECT count(*) FROM pg_locks WHERE relation = 'attempts'::regclass AND NOT granted")
    return bool((await connection.execute(locks)).scalar_one() == count)


@pytest.fixture
async def dispatcher(configure: Callable[..., Settings]) -> AsyncIterator[Dispatcher]:
    """With batches of ten."""
    async with serving(configure(worker_concurrency=4)) as running:
        yield running


async def test_a_pause_between_claim_and_arm_sends_nothing_and_costs_nothing(
    dispatcher: Dispatcher, database: Database, simulator: Provider, peers: Peers
) -> None:
    head = header()
    async with arms_waiting(database, 2) as waiting:
        await submit(dispatcher, phones(20), head)
        await waiting()
        await dispatcher.pause(head)
    await eventually(lambda: _are_in_state(dispatcher, {"READY": 2}))
    assert [(batch.attempts, batch.epoch) for batch in await dispatcher.batches()] == [(0, 1), (0, 1)]
    assert simulator.stats().requests == 0
    other = await submit(dispatcher, phones(10, first=447_700_900_000))
    await eventually(lambda: len(peers.campaign.recipients) == 10)
    assert {result.campaign_id for result in peers.campaign.results} == {other.campaign_id}
    epochs = [batch.epoch for batch in await dispatcher.batches(campaign_id=head.campaign_id)]
    assert epochs == [1, 1], "what is paused is not claimed again and again"

    await dispatcher.resume(head)
    await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 30})
    assert simulator.times_accepted() == {1: 30}
    assert {batch.attempts for batch in await dispatcher.batches()} == {1}


async def test_a_cancel_between_claim_and_arm_sends_nothing(
    dispatcher: Dispatcher, database: Database, simulator: Provider, peers: Peers
) -> None:
    head = header()
    async with arms_waiting(database, 2) as waiting:
        await submit(dispatcher, phones(20), head)
        await waiting()
        cancelled = await dispatcher.dispatch.CancelCampaign(pb.CancelCampaignRequest(**naming(head)))
    assert (cancelled.cancelled_recipients, cancelled.in_flight) == (20, 0)
    await eventually(lambda: peers.campaign.outcomes == {"CANCELLED": 20})
    assert await dispatcher.states() == {"CANCELLED": 2}
    assert simulator.stats().requests == 0


async def test_an_opt_out_between_claim_and_arm_stops_its_own_batch_which_goes_out_without_it(
    dispatcher: Dispatcher, database: Database, simulator: Provider, peers: Peers
) -> None:
    numbers = phones(20)
    async with arms_waiting(database, 2) as waiting:
        await submit(dispatcher, numbers)
        await waiting()
        await dispatcher.dispatch.RecordOptOuts(
            pb.RecordOptOutsRequest(request_id=str(uuid.uuid4()), tenant_id=TENANT, phones=[numbers[13]])
        )
    await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 19, "OPTED_OUT": 1})
    assert peers.campaign.recipients[numbers[13]][0] == "OPTED_OUT"
    assert f"+{numbers[13]}" not in {message.destination for message in simulator.accepted()}
    assert [(batch.attempts, batch.epoch) for batch in await dispatcher.batches()] == [(1, 0), (1, 1)]


@pytest.mark.parametrize("takes_back", [True, False], ids=["as it is", "without taking back"])
@pytest.mark.parametrize("what", ["pause", "opt-out"])
async def test_an_arm_that_looked_before_a_pause_or_an_opt_out_comes_first_or_not_at_all(
    dispatcher: Dispatcher, database: Database, monkeypatch: pytest.MonkeyPatch, what: str, takes_back: bool
) -> None:
    if not takes_back:

        async def nothing(*_: object) -> int:
            return 0

        monkeypatch.setattr(take_backs, "of_campaign", nothing)
        monkeypatch.setattr(take_backs, "with_numbers", nothing)
    head, numbers = header(), phones(10)
    await dispatcher.pause(head)
    await submit(dispatcher, numbers, head)
    lane = Lane(2, TENANT, uuid.UUID(head.campaign_id))
    async with database.begin() as connection:
        await connection.execute(text("UPDATE campaigns SET paused = false"))
        batch = await claims.claim(connection, lane, "w", timedelta(minutes=1), account=ACCOUNT)
    assert batch is not None

    async def arm() -> bool:
        async with database.autocommit() as connection:
            return await arm_as(connection, batch, "w")

    async def change() -> None:
        if what == "pause":
            await dispatcher.pause(head)
        else:
            await dispatcher.dispatch.RecordOptOuts(
                pb.RecordOptOutsRequest(request_id=str(uuid.uuid4()), tenant_id=TENANT, phones=numbers[:1])
            )

    async with database.begin() as connection:
        await connection.execute(text("SELECT FROM batches FOR UPDATE"))
        arming = asyncio.create_task(arm())
        await asyncio.sleep(0.3)  # it has looked, and waits for the row
        changing = asyncio.create_task(change())
        done, _ = await asyncio.wait([changing], timeout=1.0)
        assert bool(done) is not takes_back, "it is acknowledged once nobody arms any more who did not know of it"
    assert await arming
    await changing


async def _are_in_state(dispatcher: Dispatcher, states: dict[str, int]) -> bool:
    return dict(await dispatcher.states()) == states
