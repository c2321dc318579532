"""Pacing by the provider's clock: what the simulator noted, in whole windows."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import pytest
from google.protobuf.duration_pb2 import Duration
from pydantic import SecretStr
from redis.asyncio import Redis

from bulksms.dispatcher.v1 import queue_pb2
from bulksms_dispatcher.settings import Settings
from devstack.eventually import eventually
from devstack.mitto.behaviours import Behaviour
from devstack.valkey import EmbeddedValkey

from .dispatcher_support import (
    ACCOUNT,
    Dispatcher,
    Peers,
    Provider,
    busiest_window,
    header,
    phones,
    process,
    serving,
    submit,
)

pytestmark = pytest.mark.slow


async def test_the_provider_never_sees_more_than_the_limits_and_tenants_do_not_hold_each_other_up(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    settings = configure(
        sms_batch_size=1,
        rate_limit_traffic_account_max=40,
        rate_limit_traffic_account_window_ms=500,
        rate_limit_tenant_max=20,
        rate_limit_tenant_window_ms=500,
    )
    async with serving(settings) as first, serving(settings) as second:
        await asyncio.gather(
            submit(first, phones(60), header(tenant_id="one")),
            submit(second, phones(60, first=447_700_900_000), header(tenant_id="two")),
            submit(second, phones(10, first=491_510_000_000), header(tenant_id="three")),
        )
        await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 130})
    assert max(peak.requests for peak in simulator.peaks(window_ms=500)) <= 40
    per_tenant: dict[str, list[float]] = {}
    for message in simulator.accepted():
        per_tenant.setdefault(message.destination[:3], []).append(message.received_at)
    busiest = [busiest_window(times, timedelta(milliseconds=500)) for times in per_tenant.values()]
    assert len(busiest) == 3
    assert max(busiest) <= 20


async def test_a_provider_that_says_429_gets_half_the_rate_from_all_replicas(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    settings = configure(
        sms_batch_size=1,
        rate_limit_traffic_account_max=40,
        rate_limit_traffic_account_window_ms=500,
        rate_limit_slowdown_seconds=30.0,
    )
    simulator.script(Behaviour(status=429))
    async with serving(settings) as first, serving(settings) as second:
        await asyncio.gather(
            submit(first, phones(60), header(tenant_id="one")),
            submit(second, phones(60, first=447_700_900_000), header(tenant_id="two")),
        )
        await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 120})
    refused = min(request.arrived_at for request in simulator.requests() if request.status == 429)
    # What had its permit before the 429 was recorded may still arrive; the account then rests for a second.
    later = [request.arrived_at for request in simulator.requests() if request.arrived_at > refused + 0.9]
    assert busiest_window(later, timedelta(milliseconds=500)) <= 20
    assert simulator.times_accepted() == {1: 120}


async def test_limits_are_changed_while_sending_and_every_replica_obeys(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    settings = configure(sms_batch_size=1, rate_limit_tenant_max=1, rate_limit_tenant_window_ms=2000)
    async with serving(settings) as first, serving(settings) as second:
        await submit(first, phones(40), header(tenant_id="one"))
        await submit(second, phones(40, first=447_700_900_000), header(tenant_id="two"))
        await eventually(lambda: peers.campaign.outcomes["ACCEPTED"] >= 2)
        for scope, key, most in [
            (queue_pb2.RATE_LIMIT_SCOPE_TENANT, "one", 1000),
            (queue_pb2.RATE_LIMIT_SCOPE_TRAFFIC_ACCOUNT, ACCOUNT, 8),
        ]:
            limit = queue_pb2.RateLimit(scope=scope, key=key, max_requests=most, window=Duration(nanos=500_000_000))
            await first.queue.SetRateLimit(queue_pb2.SetRateLimitRequest(request_id=str(uuid.uuid4()), limit=limit))
        changed_at = time.time()
        # At the old limit this would take 80 s.
        await eventually(lambda: sum(m.destination.startswith("+3069") for m in simulator.accepted()) == 40)
    times = [r.arrived_at for r in simulator.requests() if r.method == "POST" and r.arrived_at > changed_at + 1.5]
    assert busiest_window(times, timedelta(milliseconds=500)) <= 8
    others = [m.received_at for m in simulator.accepted() if m.destination.startswith("+4477")]
    assert busiest_window(others, timedelta(milliseconds=2000)) == 1


async def test_a_flushed_server_costs_at_most_one_window(
    configure: Callable[..., Settings], redis: Redis, redis_key_prefix: str, simulator: Provider, peers: Peers
) -> None:
    settings = configure(
        sms_batch_size=1,
        rate_limit_traffic_account_max=10,
        rate_limit_traffic_account_window_ms=500,
    )
    async with serving(settings) as first, serving(settings):
        await submit(first, phones(60))
        await eventually(lambda: len(peers.campaign.recipients) >= 20)
        # This test's share of the server: what FLUSHALL would take, without harm to the tests beside it.
        await redis.delete(*[key async for key in redis.scan_iter(match=f"{redis_key_prefix}*")])
        await redis.script_flush()
        await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 60})
    arrival_times = sorted(request.arrived_at for request in simulator.requests())
    window = timedelta(milliseconds=500)
    assert busiest_window(arrival_times, window) <= 20
    over = [at for at in arrival_times if sum(at <= other < at + 0.5 for other in arrival_times) > 10]
    assert not over or over[-1] - over[0] <= 0.6
    assert simulator.times_accepted() == {1: 60}


@pytest.mark.faults
@pytest.mark.timeout(300)
async def test_three_replicas_use_their_limits_and_never_exceed_them(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    """The account's 100 and the tenants' 50 a second, saturated for ten seconds by processes of their own.

    Among the long suites, because a machine that is busy with other tests cannot send 100 requests a second.
    """
    settings = configure(
        sms_batch_size=1,
        rate_limit_traffic_account_max=100,
        rate_limit_tenant_max=50,
        status_refresh_max=0,
    )
    tenants = {"306": "one", "447": "two", "491": "three"}
    heads = {prefix: header(tenant_id=tenant) for prefix, tenant in tenants.items()}
    async with serving(settings) as first:
        with process(settings), process(settings):
            await eventually(lambda: _workers(first, 3))
            for head in heads.values():
                await first.pause(head)
            for prefix, head in heads.items():
                await submit(first, phones(440, first=int(prefix.ljust(12, "0"))), head)
            for head in heads.values():
                await first.resume(head)
            await eventually(lambda: len(peers.campaign.results) == 1320, 200)
    arrival_times = sorted(request.arrived_at for request in simulator.requests())
    assert simulator.times_accepted() == {1: 1320}
    assert busiest_window(arrival_times, timedelta(seconds=1)) <= 100
    per_tenant: dict[str, list[float]] = {prefix: [] for prefix in tenants}
    for message in simulator.accepted():
        per_tenant[message.destination[1:4]].append(message.received_at)
    assert all(busiest_window(times, timedelta(seconds=1)) <= 50 for times in per_tenant.values())
    begins = arrival_times[0] + 1
    used = sum(begins <= at < begins + 10 for at in arrival_times) / 1000
    assert used >= 0.95


async def test_a_killed_server_stops_sending_and_costs_at_most_one_window(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers, tmp_path_factory: pytest.TempPathFactory
) -> None:
    valkey = EmbeddedValkey(tmp_path_factory.mktemp("valkey"))
    await asyncio.to_thread(valkey.start)
    settings = configure(
        redis_url=SecretStr(valkey.url),
        sms_batch_size=1,
        rate_limit_traffic_account_max=10,
        rate_limit_traffic_account_window_ms=1000,
    )
    try:
        async with serving(settings) as first, serving(settings) as second:
            await submit(first, phones(120))
            await eventually(lambda: len(simulator.requests()) >= 15)
            await asyncio.to_thread(valkey.kill)
            for dispatcher in (first, second):
                await eventually(partial(_says_it_stopped, dispatcher))
            # What was armed when the server died has been sent; nothing follows.
            before = len(simulator.requests())
            assert 15 <= before < 120
            await asyncio.to_thread(valkey.start)
            await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 120})
            assert {batch.attempts for batch in await first.batches()} == {1}
    finally:
        await asyncio.to_thread(valkey.remove)
    arrival_times = sorted(request.arrived_at for request in simulator.requests())
    assert busiest_window(arrival_times, timedelta(seconds=1)) <= 20
    over = [at for at in arrival_times if sum(at <= other < at + 1 for other in arrival_times) > 10]
    assert not over or over[-1] - over[0] <= 1.1
    assert simulator.times_accepted() == {1: 120}


async def _says_it_stopped(dispatcher: Dispatcher) -> bool:
    stats = await dispatcher.queue.GetQueueStats(queue_pb2.GetQueueStatsRequest())
    return not stats.pacing_available


async def _workers(dispatcher: Dispatcher, wanted: int) -> bool:
    stats = await dispatcher.queue.GetQueueStats(queue_pb2.GetQueueStatsRequest())
    return bool(stats.workers_alive == wanted)
