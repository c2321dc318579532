"""The limiter against a real server: exact by the clock of arrival, all or nothing, and open about its waits."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from redis.asyncio import Redis

from bulksms_dispatcher.domain.rate_limits import Limit, Limits, LimitScope, Slowdown
from bulksms_dispatcher.metrics import Metrics
from bulksms_dispatcher.pacing.in_flight import InFlightTracker
from bulksms_dispatcher.pacing.limiter import PERMIT_TTL, Limiter, PacingUnavailable
from bulksms_dispatcher.pacing.permits import Permit, ReleasedSlot, Throttled
from devstack.eventually import eventually
from devstack.servers import Servers
from servicekit.clock import Clock, ManualClock, SystemClock
from servicekit.lifecycle import running

from .dispatcher_support import busiest_window

WINDOW = timedelta(milliseconds=200)
HOUR = timedelta(hours=1)
UNLIMITED = Limit()


def limiter(
    redis: Redis,
    prefix: str,
    *,
    account: Limit = UNLIMITED,
    tenant: Limit = UNLIMITED,
    everything: Limit = UNLIMITED,
    slowdown: Slowdown = Slowdown(),  # noqa: B008 - immutable
    refreshes: Limit = UNLIMITED,
    permit_ttl: timedelta = PERMIT_TTL,
    clock: Clock = SystemClock(),  # noqa: B008 - has no state
) -> Limiter:
    limits = Limits({LimitScope.TRAFFIC_ACCOUNT: account, LimitScope.TENANT: tenant, LimitScope.GLOBAL: everything})
    return Limiter(
        redis,
        key_prefix=prefix,
        traffic_account_id="account",
        limits=lambda: limits,
        slowdown=slowdown,
        refreshes=refreshes,
        permit_ttl=permit_ttl,
        clock=clock,
    )


async def permit_of(paced: Limiter, tenant: str = "tenant", messages: int = 1) -> Permit:
    reply = await paced.acquire(tenant, messages)
    assert isinstance(reply, Permit)
    return reply


async def throttled_by(paced: Limiter, tenant: str = "tenant", messages: int = 1) -> Throttled:
    reply = await paced.acquire(tenant, messages)
    assert isinstance(reply, Throttled)
    return reply


async def permits_until_throttled(paced: Limiter) -> int:
    """How many permits there are at once."""
    granted = 0
    while isinstance(await paced.acquire("tenant", 1), Permit):
        granted += 1
    return granted


class Workers:
    """Twenty senders and a provider's clock: each request takes its time before and after it is noted there."""

    def __init__(self, paced: Limiter, seconds: float, *, counts_at_grant: bool = False) -> None:
        self._paced = paced
        self._seconds = seconds
        self._counts_at_grant = counts_at_grant
        self._random = Random(7)
        self.arrival_times: list[float] = []
        self.given_back = 0
        self.died = 0

    async def work(self) -> list[float]:
        end = time.monotonic() + self._seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(self._work_until(end))
        return self.arrival_times

    async def _work_until(self, end: float) -> None:
        while time.monotonic() < end:
            reply = await self._paced.acquire("tenant", 1)
            if isinstance(reply, Throttled):
                assert timedelta(0) < reply.wait <= WINDOW
                await asyncio.sleep(reply.wait.total_seconds())
            else:
                await self._send(reply)

    async def _send(self, permit: Permit) -> None:
        if self._counts_at_grant:
            await self._paced.release_slots([ReleasedSlot(permit, time.monotonic())])
        await asyncio.sleep(max(0.0, permit.begins_at - time.monotonic()))
        fate = self._random.random()
        if not self._counts_at_grant and fate < 0.1:
            self.given_back += 1
            await self._paced.release_slots([ReleasedSlot(permit, None)])
            return
        await asyncio.sleep(self._random.uniform(0, 0.1))
        if not self._counts_at_grant and time.monotonic() >= permit.ends_at:
            await self._paced.release_slots([ReleasedSlot(permit, None)])  # a busy machine
            return
        self.arrival_times.append(time.monotonic())
        if fate < 0.15:
            self.died += 1  # right after the provider had it, so that nobody says so
            return
        await asyncio.sleep(self._random.uniform(0, 0.03))
        if not self._counts_at_grant:
            await self._paced.release_slots([ReleasedSlot(permit, time.monotonic())])


async def test_20_workers_never_exceed_a_limit_by_the_clock_of_arrival_whatever_lies_before_it(
    redis: Redis, redis_key_prefix: str
) -> None:
    workers = Workers(
        limiter(redis, redis_key_prefix, account=Limit(20, window=WINDOW), permit_ttl=timedelta(milliseconds=500)), 3
    )
    arrival_times = await workers.work()
    assert busiest_window(arrival_times, WINDOW) <= 20
    assert workers.given_back
    assert workers.died
    assert len(arrival_times) >= 60


async def test_counting_at_the_grant_would_exceed_it(redis: Redis, redis_key_prefix: str) -> None:
    """The negative control of the test above: the same workers, the slot counted from when it was given."""
    paced = limiter(redis, redis_key_prefix, account=Limit(20, window=WINDOW))
    assert busiest_window(await Workers(paced, 3, counts_at_grant=True).work(), WINDOW) > 20


async def begun_by_20_workers(paced: Limiter, seconds: float) -> list[float]:
    """When requests began that were each released at once."""
    began: list[float] = []
    end = time.monotonic() + seconds

    async def work() -> None:
        while time.monotonic() < end:
            reply = await paced.acquire("tenant", 1)
            if isinstance(reply, Throttled):
                await asyncio.sleep(reply.wait.total_seconds())
                continue
            await asyncio.sleep(max(0.0, reply.begins_at - time.monotonic()))
            began.append(time.monotonic())
            await paced.release_slots([ReleasedSlot(reply, time.monotonic())])

    async with asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(work())
    return began


async def test_20_workers_use_almost_all_of_a_limit(redis: Redis, redis_key_prefix: str) -> None:
    """Exact from both sides: released at once, as many as the limit begin in the windows there were."""
    paced = limiter(redis, redis_key_prefix, account=Limit(20, window=WINDOW))
    began = await begun_by_20_workers(paced, 1.2)
    assert busiest_window(began, WINDOW) == 20
    assert len(began) >= 80  # six windows begin; a busy machine may miss the last ones


async def test_a_slot_is_free_a_window_after_the_arrival_and_is_given_ahead_of_that(
    redis: Redis, redis_key_prefix: str
) -> None:
    window = timedelta(seconds=5)
    paced = limiter(redis, redis_key_prefix, account=Limit(1, window=window))
    permit = await permit_of(paced)
    under_way = await throttled_by(paced)
    assert timedelta(seconds=4.9) < under_way.wait <= window
    arrived_at = time.monotonic() - 4.98
    await paced.release_slots([ReleasedSlot(permit, arrived_at)])
    following = await permit_of(paced)
    # Redis's clock and this one agree to the microseconds that are rounded away.
    assert following.begins_at >= arrived_at + window.total_seconds() - 1e-5


async def test_a_slot_given_back_is_free_at_once_and_twice_is_not_two(redis: Redis, redis_key_prefix: str) -> None:
    paced = limiter(redis, redis_key_prefix, account=Limit(2, window=HOUR), tenant=Limit(2, window=HOUR))
    first = await permit_of(paced)
    await permit_of(paced)
    for _ in range(2):
        await paced.release_slots([ReleasedSlot(first, None)])
    assert await permits_until_throttled(paced) == 1


async def test_the_slot_of_a_process_that_died_counts_for_its_permits_time_and_a_window(
    redis: Redis, redis_key_prefix: str
) -> None:
    permit_ttl = timedelta(milliseconds=400)
    paced = limiter(redis, redis_key_prefix, account=Limit(1, window=WINDOW), permit_ttl=permit_ttl)
    granted_at = time.monotonic()
    await permit_of(paced)
    while isinstance(reply := await paced.acquire("tenant", 1), Throttled):
        assert timedelta(0) < reply.wait <= WINDOW
        assert time.monotonic() < granted_at + 10
        await asyncio.sleep(reply.wait.total_seconds())
    assert reply.begins_at >= granted_at + (permit_ttl + WINDOW).total_seconds()


async def test_whoever_was_frozen_for_longer_than_its_permit_lasts_must_not_send_and_is_counted(
    redis: Redis, redis_key_prefix: str
) -> None:
    clock = ManualClock()
    paced = limiter(redis, redis_key_prefix, tenant=Limit(2, window=HOUR), clock=clock)
    reader = InMemoryMetricReader()
    tracker = InFlightTracker(paced, timedelta(milliseconds=40), Metrics(MeterProvider([reader])), clock=clock)
    with tracker.follow(await permit_of(paced)) as in_time, tracker.follow(await permit_of(paced)) as frozen:
        clock.advance(PERMIT_TTL - timedelta(milliseconds=1))
        assert in_time.begin()
        clock.advance(timedelta(milliseconds=1))
        assert not frozen.begin()
    async with running([tracker]):
        pass  # what was not begun is given back, what was counts
    assert await permits_until_throttled(paced) == 1
    assert _counted(reader) == {"dispatcher.pacing.expired": 1}


def _counted(reader: InMemoryMetricReader) -> dict[str, Any]:
    data = reader.get_metrics_data()
    assert data is not None
    metrics = data.resource_metrics[0].scope_metrics[0].metrics
    return {metric.name: point.value for metric in metrics for point in metric.data.data_points}


async def test_a_request_without_a_response_counts_from_the_grace_after_its_last_byte(
    redis: Redis, redis_key_prefix: str
) -> None:
    paced = limiter(redis, redis_key_prefix, tenant=Limit(1, window=HOUR))
    tracker = InFlightTracker(paced, timedelta(milliseconds=20), Metrics())
    async with running([tracker]):
        permit = await permit_of(paced)
        with tracker.follow(permit) as in_flight:
            assert in_flight.begin()
            written_at = (await redis.time())[0]
            in_flight.written()

            async def counts_from() -> float:
                score: float = await redis.zscore(permit.keys[0], permit.entry)
                return score / 1e6

            await eventually(lambda: _is_below(counts_from, written_at + PERMIT_TTL.total_seconds() - 1))
            counted = await counts_from()
        # Its end, an reply at last, changes nothing.
    assert await counts_from() == counted
    assert counted >= written_at


async def _is_below(ask: Any, bound: float) -> bool:
    return bool(await ask() < bound)


async def test_an_outage_while_slots_are_released_stops_nothing(redis_key_prefix: str) -> None:
    nobody: Redis = Redis.from_url("redis://127.0.0.1:1", socket_connect_timeout=1)
    tracker = InFlightTracker(limiter(nobody, redis_key_prefix), timedelta(0), Metrics())
    async with running([tracker]):
        for number in range(3):
            tracker.add(ReleasedSlot(Permit(f"{number}:1", ("key",), 0.0, 0.0), 0.0))
    await nobody.aclose()


async def test_a_tenant_at_its_limit_takes_nothing_from_the_account(redis: Redis, redis_key_prefix: str) -> None:
    paced = limiter(redis, redis_key_prefix, account=Limit(3, window=HOUR), tenant=Limit(1, window=HOUR))
    await permit_of(paced, "greedy")
    for _ in range(10):
        throttled = await throttled_by(paced, "greedy")
        assert throttled.scope is LimitScope.TENANT
        assert timedelta(minutes=59) < throttled.wait <= HOUR
    await permit_of(paced, "second")
    await permit_of(paced, "third")
    assert (await throttled_by(paced, "fourth")).scope is LimitScope.TRAFFIC_ACCOUNT


async def test_messages_are_limited_besides_requests(redis: Redis, redis_key_prefix: str) -> None:
    paced = limiter(redis, redis_key_prefix, everything=Limit(None, 100, HOUR))
    await permit_of(paced, "a", 60)
    assert (await throttled_by(paced, "b", 50)).scope is LimitScope.GLOBAL
    await permit_of(paced, "b", 40)
    await throttled_by(paced, "c", 1)
    await permit_of(paced, "d", 0)  # a question is a request and no message


@pytest.mark.parametrize("none", [Limit(0, window=WINDOW), Limit(None, 0, WINDOW)], ids=["requests", "messages"])
async def test_a_limit_of_0_lets_nothing_through_and_is_asked_again_a_window_later(
    redis: Redis, redis_key_prefix: str, none: Limit
) -> None:
    paced = limiter(redis, redis_key_prefix, tenant=none, everything=Limit(100, window=HOUR))
    for _ in range(3):
        throttled = await throttled_by(paced, "a", 1)
        assert (throttled.scope, throttled.wait) == (LimitScope.TENANT, WINDOW)
    paced = limiter(redis, redis_key_prefix, account=none)
    assert (await throttled_by(paced)).scope is LimitScope.TRAFFIC_ACCOUNT
    paced = limiter(redis, redis_key_prefix, everything=none)
    assert (await throttled_by(paced)).scope is LimitScope.GLOBAL


async def test_a_request_larger_than_the_limit_passes_alone_and_not_never(redis: Redis, redis_key_prefix: str) -> None:
    paced = limiter(redis, redis_key_prefix, tenant=Limit(None, 100, WINDOW))
    first = await permit_of(paced, "a", 5000)
    await throttled_by(paced, "a", 1)
    await paced.release_slots([ReleasedSlot(first, time.monotonic())])
    throttled = await throttled_by(paced, "a", 5000)
    await asyncio.sleep(throttled.wait.total_seconds())
    following = await permit_of(paced, "a", 5000)
    assert following.begins_at > first.begins_at + WINDOW.total_seconds()


async def test_a_blocked_account_rests_for_as_long_as_the_provider_asked(redis: Redis, redis_key_prefix: str) -> None:
    paced = limiter(redis, redis_key_prefix)
    await paced.block_account(timedelta(seconds=30))
    throttled = await throttled_by(paced)
    assert throttled.scope is None
    assert timedelta(seconds=25) < throttled.wait <= timedelta(seconds=30)


async def test_a_429_halves_the_rate_once_however_many_workers_get_one(redis: Redis, redis_key_prefix: str) -> None:
    slow = Slowdown(halved_for=HOUR, recovery=HOUR)
    paced = limiter(redis, redis_key_prefix, account=Limit(100, window=HOUR), slowdown=slow)
    shares = await asyncio.gather(*(paced.back_off(timedelta(milliseconds=1)) for _ in range(20)))
    assert set(shares) == {0.5}
    await eventually(lambda: _rested(redis, redis_key_prefix))
    counts = await asyncio.gather(*(permits_until_throttled(paced) for _ in range(20)))
    assert sum(counts) == 50


async def _rested(redis: Redis, prefix: str) -> bool:
    return not await redis.exists(f"{prefix}{{pacing}}:blocked:account")


async def test_a_slowed_account_comes_back_little_by_little(redis: Redis, redis_key_prefix: str) -> None:
    """20 workers: in no window are there more than the share of its end allows, and at last all of it is used."""
    recovery = timedelta(seconds=2)
    slow = Slowdown(halved_for=timedelta(milliseconds=400), recovery=recovery)
    paced = limiter(redis, redis_key_prefix, account=Limit(20, window=WINDOW), slowdown=slow)
    await paced.back_off(timedelta(milliseconds=1))
    stored = await redis.hgetall(f"{redis_key_prefix}{{pacing}}:slowed:account")
    assert float(stored[b"share"]) == 0.5
    seconds, microseconds = await redis.time()
    # Of this clock, and a little early: the share is then taken to be larger than it is.
    halved_until = time.monotonic() + int(stored[b"halved_until"]) / 1e6 - (seconds + microseconds / 1e6) - 0.01
    began = await begun_by_20_workers(paced, 2.2)
    for last in began:
        share = min(1.0, 0.5 + max(0.0, last - halved_until) / recovery.total_seconds())
        within = sum(last - WINDOW.total_seconds() < at <= last for at in began)
        assert within <= max(1, int(20 * share + 1e-6))
    assert busiest_window([at for at in began if at < halved_until], WINDOW) == 10
    assert busiest_window(began, WINDOW) == 20


async def test_every_further_429_halves_what_is_left_and_a_flushed_server_forgets_it(
    redis: Redis, redis_key_prefix: str
) -> None:
    tiny = timedelta(milliseconds=1)
    paced = limiter(redis, redis_key_prefix, account=Limit(64, window=tiny), slowdown=Slowdown(HOUR, HOUR))
    shares = []
    for _ in range(8):
        shares.append(await paced.back_off(tiny))
        await asyncio.sleep(0.01)  # past the window: an answer to a request of the new rate
    assert shares[:3] == [0.5, 0.25, 0.125]
    assert shares[-1] == 0.015  # 1/64: never nothing
    await redis.delete(f"{redis_key_prefix}{{pacing}}:slowed:account")
    assert await paced.back_off(tiny) == 0.5


async def refreshes_until_throttled(paced: Limiter) -> int:
    """How many questions may be asked at once, by twenty who want to."""
    replies = await asyncio.gather(*(paced.acquire_refresh() for _ in range(20)))
    return sum(isinstance(reply, Permit) for reply in replies)


async def test_refreshes_are_counted_with_sends_and_leave_a_fifth_of_the_limit_alone(
    redis: Redis, redis_key_prefix: str
) -> None:
    paced = limiter(redis, redis_key_prefix, account=Limit(20, window=HOUR), refreshes=Limit(6, window=HOUR))
    for _ in range(12):
        await permit_of(paced)
    assert await refreshes_until_throttled(paced) == 4
    assert await permits_until_throttled(paced) == 4
    await paced.block_refreshes(timedelta(seconds=30))
    blocked = await paced.acquire_refresh()
    assert isinstance(blocked, Throttled)
    assert timedelta(seconds=25) < blocked.wait <= timedelta(seconds=30)


async def test_refreshes_have_a_limit_of_their_own(redis: Redis, redis_key_prefix: str) -> None:
    paced = limiter(redis, redis_key_prefix, account=Limit(20, window=HOUR), refreshes=Limit(6, window=HOUR))
    assert await refreshes_until_throttled(paced) == 6
    assert await permits_until_throttled(paced) == 14


async def test_one_refresh_at_a_time_finds_a_free_slot_however_many_sends_there_are(
    redis: Redis, redis_key_prefix: str
) -> None:
    paced = limiter(redis, redis_key_prefix, account=Limit(20, window=HOUR), refreshes=Limit(6, window=HOUR))
    for _ in range(19):
        await permit_of(paced)
    assert await refreshes_until_throttled(paced) == 1
    assert await permits_until_throttled(paced) == 0
    assert await refreshes_until_throttled(paced) == 0


async def test_the_script_survives_a_server_that_forgot_everything(servers: Servers, redis_key_prefix: str) -> None:
    client: Redis = Redis.from_url(servers.redis_url, socket_timeout=2)
    paced = limiter(client, redis_key_prefix, tenant=Limit(1, window=HOUR))
    forgotten = await permit_of(paced, "a")
    await client.script_flush()
    await client.delete(f"{redis_key_prefix}{{pacing}}:tenant:a")
    await permit_of(paced, "a")
    await client.script_flush()
    await paced.release_slots([ReleasedSlot(forgotten, time.monotonic())])  # does not come back
    assert await client.zcard(forgotten.keys[0]) == 1
    await client.aclose()


async def test_a_server_whose_clock_went_back_holds_nobody_up(redis: Redis, redis_key_prefix: str) -> None:
    paced = limiter(redis, redis_key_prefix, tenant=Limit(1, window=HOUR))
    permit = await permit_of(paced, "a")
    seconds, _ = await redis.time()
    await redis.zadd(permit.keys[0], {permit.entry: (seconds + 3600) * 1e6})
    await permit_of(paced, "a")


async def test_a_server_that_is_away_is_said_so(redis_key_prefix: str) -> None:
    nobody: Redis = Redis.from_url("redis://127.0.0.1:1", socket_connect_timeout=1)
    with pytest.raises(PacingUnavailable):
        await limiter(nobody, redis_key_prefix).acquire("a", 1)
    await nobody.aclose()
