"""Crashes, freezes, restarts and servers that go away: nothing twice, nothing lost."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from bulksms.dispatcher.v1 import dispatch_pb2 as pb
from bulksms.dispatcher.v1 import queue_pb2
from bulksms.types.v1 import types_pb2
from bulksms_dispatcher.settings import Settings
from devstack.eventually import eventually
from devstack.mitto.behaviours import Behaviour, Latency
from devstack.valkey import EmbeddedValkey
from servicekit.database import Database

from .dispatcher_support import Dispatcher, Peers, Provider, header, phones, process, serving, submit, why

pytestmark = pytest.mark.slow

# On a busy machine a polite answer may take a second.


@contextmanager
def paused(running: subprocess.Popen[bytes]) -> Iterator[None]:
    running.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        running.send_signal(signal.SIGCONT)


async def expire_leases(settings: Settings) -> None:
    """As if the lease's time had passed."""
    database = Database(settings.database_url, application_name="test", pool_size=1)
    async with database.begin() as connection:
        await connection.execute(
            text("UPDATE batches SET lease_until = clock_timestamp() - interval '1 second' WHERE state IN (2, 3)")
        )
    await database.stop()


async def test_a_worker_killed_while_sending_leaves_an_ambiguous_batch_that_is_not_sent_again(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    settings = configure(worker_concurrency=1)
    simulator.script("accept-then-never-respond")
    async with serving(settings) as survivor:
        head = header()
        await survivor.pause(head)
        await submit(survivor, phones(20), head)
    with process(settings) as victim:
        await _resume(settings, head)
        await eventually(simulator.times_accepted)
        victim.kill()
        victim.wait()
    await expire_leases(settings)
    async with serving(settings) as dispatcher:
        await eventually(lambda: len(peers.campaign.recipients) == 20)
        assert peers.campaign.outcomes == {"AMBIGUOUS": 10, "ACCEPTED": 10}
        assert await dispatcher.states() == {"AMBIGUOUS": 1, "ACCEPTED": 1}
        assert simulator.times_accepted() == {1: 20}
        (lost,) = await dispatcher.batches(state=queue_pb2.BATCH_STATE_AMBIGUOUS)
        assert why(lost) == "WORKER_LOST"


async def _resume(settings: Settings, head: pb.SubmissionHeader) -> None:
    database = Database(settings.database_url, application_name="test", pool_size=1)
    async with database.begin() as connection:
        await connection.execute(
            text("UPDATE campaigns SET paused = false WHERE campaign_id = :id"), {"id": uuid.UUID(head.campaign_id)}
        )
    await database.stop()


async def test_a_frozen_worker_that_goes_on_resolves_its_batch_by_the_late_response(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    settings = configure()
    # Long enough to be frozen in, however busy the machine is.
    simulator.script(Behaviour(latency=Latency(constant_seconds=3.0)))
    with process(settings) as zombie:
        async with serving(configure(worker_concurrency=1)) as other:
            head = header()
            await other.pause(head)
            await submit(other, phones(10), head)
        await _resume(settings, head)
        await eventually(simulator.times_accepted)
        with paused(zombie):
            await expire_leases(settings)
            async with serving(settings) as dispatcher:
                await eventually(lambda: peers.campaign.outcomes == {"AMBIGUOUS": 10})
                assert await dispatcher.states() == {"AMBIGUOUS": 1}
        await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 10})
    assert simulator.times_accepted() == {1: 10}


async def test_a_graceful_stop_finishes_what_is_armed_and_leaves_nothing_ambiguous(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    settings = configure(sms_batch_size=1)
    slow = Behaviour(latency=Latency(constant_seconds=0.05))
    simulator.script(slow, repeat=60)
    async with serving(settings) as first:
        await submit(first, phones(60))
        await eventually(lambda: len(peers.campaign.recipients) >= 5)
    for _ in range(3):
        wanted = min(len(peers.campaign.recipients) + 5, 60)
        async with serving(settings):
            await eventually(partial(_has_reported, peers, wanted))
    async with serving(settings) as last:
        await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 60})
        assert await last.states() == {"ACCEPTED": 60}
        assert {batch.attempts for batch in await last.batches()} == {1}
    assert simulator.times_accepted() == {1: 60}


async def test_sigterm_ends_the_process_with_exit_code_0(configure: Callable[..., Settings], peers: Peers) -> None:
    settings = configure()
    database = Database(settings.database_url, application_name="test", pool_size=1)

    async def workers() -> int:
        async with database.connect() as connection:
            return int((await connection.execute(text("SELECT count(*) FROM workers"))).scalar_one())

    with process(settings) as running:
        await eventually(workers)
        running.terminate()
        assert await asyncio.to_thread(running.wait, 15) == 0
    assert await workers() == 0
    await database.stop()


async def test_without_redis_nothing_is_sent_and_everything_goes_on_when_it_is_back(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers, tmp_path_factory: pytest.TempPathFactory
) -> None:
    valkey = EmbeddedValkey(tmp_path_factory.mktemp("valkey"))
    await asyncio.to_thread(valkey.start)
    try:
        async with serving(configure(redis_url=SecretStr(valkey.url), rate_limit_tenant_max=50)) as dispatcher:
            await submit(dispatcher, phones(20))
            await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 20})

            await asyncio.to_thread(valkey.kill)
            head = await submit(dispatcher, phones(20, first=447_700_900_000))

            async def stopped() -> bool:
                stats = await dispatcher.queue.GetQueueStats(queue_pb2.GetQueueStatsRequest())
                return not stats.pacing_available

            await eventually(stopped)
            assert simulator.times_accepted() == {1: 20}
            hold = await dispatcher.hold(head)
            assert (hold.reason, hold.HasField("since")) == (types_pb2.HOLD_REASON_PACING_UNAVAILABLE, True)

            await asyncio.to_thread(valkey.start)
            await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 40})
            assert simulator.times_accepted() == {1: 40}
            assert {batch.attempts for batch in await dispatcher.batches()} == {1}
            assert (await dispatcher.hold(head)).reason == types_pb2.HOLD_REASON_UNSPECIFIED
    finally:
        await asyncio.to_thread(valkey.remove)


async def test_connections_to_the_database_cut_in_mid_campaign_cost_nothing(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    settings = configure(sms_batch_size=1)
    simulator.script(Behaviour(latency=Latency(constant_seconds=0.03)), repeat=100)
    killer = Database(settings.database_url, application_name="killer", pool_size=1)
    async with serving(settings) as dispatcher:
        await submit(dispatcher, phones(100))
        for share in (10, 30, 50, 70):
            await eventually(partial(_has_reported, peers, share))
            async with killer.connect() as connection:
                await connection.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                        " WHERE datname = current_database() AND application_name <> 'killer'"
                    )
                )
        await eventually(lambda: len(peers.campaign.recipients) == 100, 60)
        await eventually(lambda: _is_quiet(dispatcher))
        assert await dispatcher.states() == {"ACCEPTED": 100}
    await killer.stop()
    assert simulator.times_accepted() == {1: 100}
    assert peers.campaign.outcomes == {"ACCEPTED": 100}


def _has_reported(peers: Peers, recipients: int) -> bool:
    return len(peers.campaign.recipients) >= recipients


async def _is_quiet(dispatcher: Dispatcher) -> bool:
    return not {"READY", "LEASED", "ARMED"} & set(await dispatcher.states())
