"""The limiter against a real server: exact in any window, all or nothing, and open about its waits."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest
from redis.asyncio import Redis

from bulksms_dispatcher.pacing.limiter import Limiter, PacingUnavailable
from bulksms_dispatcher.pacing.limits import Limit, Limits, LimitScope
from bulksms_dispatcher.settings import Settings
from devstack.servers import Servers

from .dispatcher_support import Peers, Provider, eventually, header, phones, serving, submit

WINDOW = timedelta(milliseconds=200)
NONE = Limit(0)


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    client: Redis = Redis.from_url(redis_url, socket_timeout=2)
    yield client
    await client.aclose()


def limiter(
    redis: Redis, prefix: str, *, account: Limit = NONE, tenant: Limit = NONE, everything: Limit = NONE
) -> Limiter:
    limits = Limits({LimitScope.TRAFFIC_ACCOUNT: account, LimitScope.TENANT: tenant, LimitScope.GLOBAL: everything})
    return Limiter(redis, key_prefix=prefix, traffic_account_id="account", limits=lambda: limits, margin=timedelta(0))


def busiest_window(times: Sequence[float], window: timedelta) -> int:
    """Most events in any half-open window of this length."""
    ordered = sorted(times)
    length = window.total_seconds()
    return max(bisect_right(ordered, start + length - 1e-9) - i for i, start in enumerate(ordered))


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
