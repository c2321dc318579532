"""The limiter against a real server: exact in any window, all or nothing, and open about its waits."""

from __future__ import annotations

import asyncio
import time
import uuid
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from redis.asyncio import Redis

from bulksms.dispatcher.v1 import queue_pb2
from bulksms_dispatcher.pacing.limiter import Limiter, PacingUnavailable
from bulksms_dispatcher.pacing.limits import Limit, Limits, LimitScope, Slowdown
from bulksms_dispatcher.settings import Settings
from devstack.mitto.behaviours import Behaviour
from devstack.servers import Servers

from .dispatcher_support import ACCOUNT, Peers, Provider, eventually, header, phones, serving, submit

WINDOW = timedelta(milliseconds=200)
NONE = Limit(0)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client: Redis = Redis.from_url(redis_url, socket_timeout=2)
    yield client
    await client.aclose()


def limiter(
    redis: Redis,
    prefix: str,
    *,
    account: Limit = NONE,
    tenant: Limit = NONE,
    everything: Limit = NONE,
    slowdown: Slowdown = Slowdown(),  # noqa: B008 - immutable
    refreshes: Limit = NONE,
) -> Limiter:
    limits = Limits({LimitScope.TRAFFIC_ACCOUNT: account, LimitScope.TENANT: tenant, LimitScope.GLOBAL: everything})
    return Limiter(
        redis,
        key_prefix=prefix,
        traffic_account_id="account",
        limits=lambda: limits,
        margin=timedelta(0),
        slowdown=slowdown,
        refreshes=refreshes,
    )


def busiest_window(times: Sequence[float], window: timedelta) -> int:
    """Most events in any half-open window of this length."""
    ordered = sorted(times)
    length = window.total_seconds()
    return max(bisect_right(ordered, start + length - 1e-6) - i for i, start in enumerate(ordered))


async def granted_times(redis: Redis, prefix: str, kind: str) -> list[float]:
    """When permits were granted, on the server's own clock, as the script noted them."""
    entries: Sequence[Any] = await redis.lrange(f"{prefix}{{pacing}}:{kind}", 0, -1)
    return [int(bytes(entry).split(b":")[0]) / 1e6 for entry in entries]


async def test_concurrent_workers_never_exceed_a_limit_in_any_window_and_use_most_of_it(
    redis: Redis, redis_key_prefix: str
) -> None:
    most = 20
    paced = limiter(redis, redis_key_prefix, account=Limit(most, window=WINDOW))
    end = time.monotonic() + 1.2
    seen: set[float] = set()

    async def work() -> None:
        while time.monotonic() < end:
            permit = await paced.acquire("tenant", 1)
            if permit.granted:
                seen.update(await granted_times(redis, redis_key_prefix, "account:account"))
            else:
                assert timedelta(0) < permit.wait <= WINDOW
                await asyncio.sleep(permit.wait.total_seconds())

    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(work())
    assert busiest_window(list(seen), WINDOW) == most
    assert len(seen) >= 4 * most  # six windows begin; a busy machine may miss the last ones


async def test_a_tenant_at_its_limit_takes_nothing_from_the_account(redis: Redis, redis_key_prefix: str) -> None:
    hour = timedelta(hours=1)
    paced = limiter(redis, redis_key_prefix, account=Limit(3, window=hour), tenant=Limit(1, window=hour))
    assert (await paced.acquire("greedy", 1)).granted
    for _ in range(10):
        refused = await paced.acquire("greedy", 1)
        assert refused.scope is LimitScope.TENANT
        assert timedelta(minutes=59) < refused.wait <= hour
    assert (await paced.acquire("second", 1)).granted
    assert (await paced.acquire("third", 1)).granted
    assert (await paced.acquire("fourth", 1)).scope is LimitScope.TRAFFIC_ACCOUNT


async def test_messages_are_limited_besides_requests(redis: Redis, redis_key_prefix: str) -> None:
    hour = timedelta(hours=1)
    paced = limiter(redis, redis_key_prefix, everything=Limit(0, 100, hour))
    assert (await paced.acquire("a", 60)).granted
    assert (await paced.acquire("b", 50)).scope is LimitScope.GLOBAL
    assert (await paced.acquire("b", 40)).granted
    assert not (await paced.acquire("c", 1)).granted


async def test_a_request_larger_than_the_limit_passes_alone_and_not_never(redis: Redis, redis_key_prefix: str) -> None:
    paced = limiter(redis, redis_key_prefix, tenant=Limit(0, 100, WINDOW))
    assert (await paced.acquire("a", 5000)).granted
    refused = await paced.acquire("a", 5000)
    assert not refused.granted
    await asyncio.sleep(refused.wait.total_seconds())
    assert (await paced.acquire("a", 5000)).granted


async def test_a_blocked_account_waits_for_as_long_as_it_was_told(redis: Redis, redis_key_prefix: str) -> None:
    paced = limiter(redis, redis_key_prefix)
    await paced.block_account(timedelta(seconds=30))
    refused = await paced.acquire("a", 1)
    assert refused.scope is None
    assert timedelta(seconds=25) < refused.wait <= timedelta(seconds=30)


async def permits_until_refused(paced: Limiter) -> int:
    """How many permits there are at once."""
    granted = 0
    while (await paced.acquire("tenant", 1)).granted:
        granted += 1
    return granted


async def test_a_429_halves_the_rate_once_however_many_workers_get_one(redis: Redis, redis_key_prefix: str) -> None:
    hour = timedelta(hours=1)
    slow = Slowdown(hold=hour, recovery=hour)
    paced = limiter(redis, redis_key_prefix, account=Limit(100, window=hour), slowdown=slow)
    shares = await asyncio.gather(*(paced.back_off(timedelta(milliseconds=1)) for _ in range(20)))
    assert set(shares) == {0.5}
    await eventually(lambda: _rested(redis, redis_key_prefix))
    counts = await asyncio.gather(*(permits_until_refused(paced) for _ in range(20)))
    assert sum(counts) == 50


async def _rested(redis: Redis, prefix: str) -> bool:
    return not await redis.exists(f"{prefix}{{pacing}}:blocked:account")


async def test_a_slowed_account_comes_back_little_by_little(redis: Redis, redis_key_prefix: str) -> None:
    """20 workers: in no window are there more than the share of its end allows, and at last all of it is used."""
    recovery = timedelta(seconds=2)
    slow = Slowdown(hold=timedelta(milliseconds=400), recovery=recovery)
    paced = limiter(redis, redis_key_prefix, account=Limit(20, window=WINDOW), slowdown=slow)
    await paced.back_off(timedelta(milliseconds=1))
    stored = await redis.hgetall(f"{redis_key_prefix}{{pacing}}:slowed:account")
    assert float(stored[b"share"]) == 0.5
    held_until = int(stored[b"held_until"]) / 1e6
    end = time.monotonic() + 2.2
    seen: set[float] = set()

    async def work() -> None:
        while time.monotonic() < end:
            permit = await paced.acquire("tenant", 1)
            if permit.granted:
                seen.update(await granted_times(redis, redis_key_prefix, "account:account"))
            else:
                await asyncio.sleep(permit.wait.total_seconds())

    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(work())
    times = sorted(seen)
    for last in times:
        share = min(1.0, 0.5 + max(0.0, last - held_until) / recovery.total_seconds())
        within = sum(last - WINDOW.total_seconds() < at <= last for at in times)
        assert within <= max(1, int(20 * share + 1e-6))
    assert busiest_window([at for at in times if at < held_until], WINDOW) == 10
    assert busiest_window(times, WINDOW) == 20


async def test_every_further_429_halves_what_is_left_and_a_flushed_server_forgets_it(
    redis: Redis, redis_key_prefix: str
) -> None:
    hour = timedelta(hours=1)
    tiny = timedelta(milliseconds=1)
    paced = limiter(redis, redis_key_prefix, account=Limit(64, window=tiny), slowdown=Slowdown(hour, hour))
    shares = []
    for _ in range(8):
        shares.append(await paced.back_off(tiny))
        await asyncio.sleep(0.01)  # past the window: an answer to a request of the new rate
    assert shares[:3] == [0.5, 0.25, 0.125]
    assert shares[-1] == 0.015  # 1/64: never nothing
    await redis.delete(f"{redis_key_prefix}{{pacing}}:slowed:account")
    assert await paced.back_off(tiny) == 0.5


async def test_refreshes_take_only_what_sends_leave(redis: Redis, redis_key_prefix: str) -> None:
    hour = timedelta(hours=1)
    paced = limiter(redis, redis_key_prefix, account=Limit(10, window=hour), refreshes=Limit(4, window=hour))
    for _ in range(7):
        assert (await paced.acquire("tenant", 1)).granted
    waits = await asyncio.gather(*(paced.acquire_leftover() for _ in range(20)))
    assert waits.count(timedelta(0)) == 3
    assert await permits_until_refused(paced) == 3  # not one fewer for the refreshes
    await paced.block_refreshes(timedelta(seconds=30))
    assert timedelta(seconds=25) < await paced.acquire_leftover() <= timedelta(seconds=30)


async def test_the_script_survives_a_server_that_forgot_everything(servers: Servers, redis_key_prefix: str) -> None:
    client: Redis = Redis.from_url(servers.redis_url, socket_timeout=2)
    paced = limiter(client, redis_key_prefix, tenant=Limit(1, window=timedelta(hours=1)))
    assert (await paced.acquire("a", 1)).granted
    await client.script_flush()
    await client.delete(f"{redis_key_prefix}{{pacing}}:tenant:a")
    assert (await paced.acquire("a", 1)).granted
    await client.aclose()


async def test_a_server_that_is_away_is_said_so(redis_key_prefix: str) -> None:
    nobody: Redis = Redis.from_url("redis://127.0.0.1:1", socket_connect_timeout=1)
    with pytest.raises(PacingUnavailable):
        await limiter(nobody, redis_key_prefix).acquire("a", 1)
    await nobody.aclose()


async def test_the_provider_never_sees_more_than_the_limits_and_tenants_do_not_hold_each_other_up(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    settings = configure(
        sms_batch_size=1,
        rate_limit_traffic_account_max=40,
        rate_limit_traffic_account_window_ms=500,
        rate_limit_tenant_max=20,
        rate_limit_tenant_window_ms=500,
        rate_limit_margin_ms=50,
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
        rate_limit_margin_ms=50,
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
    # A little less than the window: on a busy machine requests lie longer between permit and arrival than the margin.
    assert busiest_window(later, timedelta(milliseconds=400)) <= 20
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
            limit = queue_pb2.RateLimit(scope=scope, key=key, max_requests=most, window_ms=500)
            await first.queue.SetRateLimit(queue_pb2.SetRateLimitRequest(request_id=str(uuid.uuid4()), limit=limit))
        changed_at = time.time()
        # At the old limit this would take 80 s.
        await eventually(lambda: sum(m.destination.startswith("+3069") for m in simulator.accepted()) == 40)
    arrivals = [r.arrived_at for r in simulator.requests() if r.method == "POST" and r.arrived_at > changed_at + 1.5]
    assert busiest_window(arrivals, timedelta(milliseconds=400)) <= 8
    others = [m.received_at for m in simulator.accepted() if m.destination.startswith("+4477")]
    assert busiest_window(others, timedelta(milliseconds=1500)) == 1


async def test_a_flushed_server_costs_at_most_one_window(
    configure: Callable[..., Settings], redis: Redis, redis_key_prefix: str, simulator: Provider, peers: Peers
) -> None:
    settings = configure(
        sms_batch_size=1,
        rate_limit_traffic_account_max=10,
        rate_limit_traffic_account_window_ms=500,
        rate_limit_margin_ms=50,
    )
    async with serving(settings) as first, serving(settings):
        await submit(first, phones(60))
        await eventually(lambda: len(peers.campaign.recipients) >= 20)
        # This test's share of the server: what FLUSHALL would take, without harm to the tests beside it.
        await redis.delete(*[key async for key in redis.scan_iter(match=f"{redis_key_prefix}*")])
        await redis.script_flush()
        await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 60})
    arrivals = sorted(request.arrived_at for request in simulator.requests())
    window = timedelta(milliseconds=500)
    assert busiest_window(arrivals, window) <= 20
    over = [at for at in arrivals if sum(at <= other < at + 0.5 for other in arrivals) > 10]
    assert not over or over[-1] - over[0] <= 0.6
    assert simulator.times_accepted() == {1: 60}
