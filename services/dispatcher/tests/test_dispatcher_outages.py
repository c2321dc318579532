"""Outages: what waits for a provider that stays away fails in the end, with a reason, unsent and unpaid."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta

import pytest
from sqlalchemy import text

from bulksms.dispatcher.v1 import messages_pb2, queue_pb2
from bulksms.types.v1 import types_pb2
from bulksms_dispatcher.metrics import Metrics
from bulksms_dispatcher.settings import Settings
from bulksms_dispatcher.workers.late_batches import LateBatches
from devstack.eventually import eventually
from devstack.mitto.rules import Rule
from servicekit.database import Database

from .dispatcher_support import ACCOUNT, TENANT, Dispatcher, Peers, Provider, header, phones, serving, submit, why

FIRST = 306_900_000_000
TAKES_NOTHING = {"provider_not_accepted_statuses": "503"}
"""What holds the account without anybody having been sent anything, as an unreachable provider does."""


async def send_single(
    dispatcher: Dispatcher, message_class: types_pb2.MessageClass.ValueType = types_pb2.MESSAGE_CLASS_SERVICE
) -> messages_pb2.Message:
    request = messages_pb2.SendMessageRequest(
        request_id=str(uuid.uuid4()),
        tenant_id=TENANT,
        phone=f"+{FIRST}",
        text="Code 1234",
        sender="Astronote",
        message_class=message_class,
    )
    return (await dispatcher.messages.SendMessage(request, timeout=20)).message


async def held_for(database: Database, held: timedelta, failed_again: timedelta) -> None:
    """The account is held since then, and was found bad again so long after that."""
    async with database.begin() as connection:
        await connection.execute(
            text("""
                INSERT INTO account_holds (traffic_account_id, tenant_id, campaign_id, held_since, kind, reason,
                                           failed_at, probe_at)
                SELECT :account, '', :nobody, since, 2, 'CONNECT_FAILED', since + CAST(:again AS interval),
                       clock_timestamp() + interval '1 h'
                FROM (SELECT clock_timestamp() - CAST(:held AS interval)) AS began (since)
            """),
            {"account": ACCOUNT, "nobody": uuid.UUID(int=0), "held": held, "again": failed_again},
        )


async def stored_before(database: Database, age: timedelta) -> None:
    async with database.begin() as connection:
        await connection.execute(
            text("UPDATE batches SET created_at = clock_timestamp() - CAST(:age AS interval)"), {"age": age}
        )


def late_batches(database: Database, patience: timedelta) -> LateBatches:
    return LateBatches(database, Metrics(), lambda: None, traffic_account_id=ACCOUNT, outage_patience=patience)


async def test_a_single_message_that_cannot_go_out_within_its_validity_fails_and_gives_its_credit_back(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    simulator.set_behaviour(rules=[Rule(do="503")])
    async with serving(configure(message_validity_seconds=1.0, **TAKES_NOTHING)) as dispatcher:
        message = await send_single(dispatcher)
        assert (message.status, why(message)) == (messages_pb2.MESSAGE_STATUS_FAILED, "TOO_LATE")
        (batch,) = await dispatcher.batches()
        assert (batch.state, why(batch)) == (queue_pb2.BATCH_STATE_DEAD, "TOO_LATE")
        await eventually(lambda: not peers.ledger.open_reservations())
    assert simulator.times_accepted() == {}
    assert peers.ledger.captured == 0


async def test_a_single_message_that_is_not_urgent_waits_as_a_campaign_does(
    configure: Callable[..., Settings], simulator: Provider
) -> None:
    simulator.script(*["503"] * 4)
    async with serving(configure(message_validity_seconds=0.5, **TAKES_NOTHING)) as dispatcher:
        message = await send_single(dispatcher, types_pb2.MESSAGE_CLASS_MARKETING)
        assert message.status == messages_pb2.MESSAGE_STATUS_SENT


async def test_after_the_patience_the_batches_of_an_outage_fail_and_what_comes_later_waits_anew(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    simulator.set_behaviour(rules=[Rule(do="503")])
    changes = {"provider_outage_patience_hours": 1.5 / 3600, "probe_after_max_seconds": 0.2, **TAKES_NOTHING}
    async with serving(configure(**changes)) as dispatcher:
        await submit(dispatcher, phones(40))
        await eventually(lambda: peers.campaign.outcomes == {"FAILED": 40})
        assert {reason for _, reason, _ in peers.campaign.recipients.values()} == {"OUTAGE"}
        assert set(await dispatcher.states()) == {"DEAD"}
        simulator.set_behaviour()
        await submit(dispatcher, phones(40, first=447_700_900_000), header(tenant_id="other"))
        await eventually(lambda: peers.campaign.outcomes == {"FAILED": 40, "ACCEPTED": 40})
    assert simulator.times_accepted() == {1: 40}


HOUR = timedelta(hours=1)


@pytest.mark.parametrize(
    ("held", "failed_again", "waited", "paused", "fails"),
    [
        (7 * HOUR, 6.5 * HOUR, 7 * HOUR, False, True),
        (5 * HOUR, 5 * HOUR, 7 * HOUR, False, False),
        (7 * HOUR, 6.5 * HOUR, 5 * HOUR, False, False),
        (7 * HOUR, 6.5 * HOUR, 7 * HOUR, True, False),
        # Nobody has probed it for six hours, because nobody had anything to send: it may be well.
        (7 * HOUR, 1 * HOUR, 7 * HOUR, False, False),
    ],
    ids=["all of it", "held for less", "waited for less", "paused", "not probed"],
)
async def test_a_batch_fails_only_when_both_the_outage_and_its_wait_are_longer_than_the_patience(
    configure: Callable[..., Settings],
    simulator: Provider,
    database: Database,
    held: timedelta,
    failed_again: timedelta,
    waited: timedelta,
    paused: bool,
    fails: bool,
) -> None:
    simulator.set_behaviour(rules=[Rule(do="503")])
    await held_for(database, held, failed_again)
    async with serving(configure()) as dispatcher:
        head = header()
        await dispatcher.pause(head)
        await submit(dispatcher, phones(10), head)
        if not paused:
            await dispatcher.resume(head)
    await stored_before(database, waited)
    await late_batches(database, 6 * HOUR).fail_once()
    async with database.connect() as connection:
        reasons = (await connection.execute(text("SELECT reason FROM batches WHERE state = 9"))).scalars().all()
    assert reasons == (["OUTAGE"] if fails else [])


async def test_a_part_that_is_cut_off_keeps_the_time_until_which_it_is_wanted(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers, database: Database
) -> None:
    async with serving(configure()) as dispatcher:
        head = header()
        await dispatcher.pause(head)
        await submit(dispatcher, phones(10), head)
        async with database.begin() as connection:
            await connection.execute(text("UPDATE batches SET not_after = clock_timestamp() + interval '1 h'"))
        simulator.script("413")
        await dispatcher.resume(head)
        await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 10})
    async with database.connect() as connection:
        times = (await connection.execute(text("SELECT not_after FROM batches"))).scalars().all()
    assert len(times) == 2
    assert len(set(times)) == 1
