"""Questions to the provider: each in its slot, and a rest when the provider wants none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from pydantic import SecretStr
from redis.asyncio import Redis

from bulksms_dispatcher.domain.lookup_results import LookupOutcome
from bulksms_dispatcher.domain.rate_limits import Limit, Limits, LimitScope
from bulksms_dispatcher.metrics import Metrics
from bulksms_dispatcher.pacing.in_flight import InFlightTracker
from bulksms_dispatcher.pacing.limiter import Limiter
from bulksms_dispatcher.pacing.permits import Permit, Throttled
from bulksms_dispatcher.providers.lookup import MessageLookup
from bulksms_dispatcher.use_cases.paced_questions import PacedQuestions, QuestionKind
from devstack.mitto.behaviours import Behaviour, Latency
from devstack.mitto.rules import Match
from servicekit.lifecycle import closing, running

from .dispatcher_support import Provider, busiest_window

HOUR, SOON, SHORTLY = timedelta(hours=1), timedelta(seconds=20), timedelta(milliseconds=100)


def limiter_of(redis: Redis, prefix: str, *, account: int | None) -> Limiter:
    limits = Limits(
        {scope: Limit() for scope in LimitScope} | {LimitScope.TRAFFIC_ACCOUNT: Limit(account, window=HOUR)}
    )
    return Limiter(redis, key_prefix=prefix, traffic_account_id="account", limits=lambda: limits, refreshes=Limit())


@asynccontextmanager
async def questions_of(
    limiter: Limiter, provider: Provider, kind: QuestionKind, *, at_once: int = 8
) -> AsyncIterator[PacedQuestions]:
    lookup = MessageLookup(provider.base_url, SecretStr("key"), timedelta(seconds=10), connections=8)
    tracker = InFlightTracker(limiter, timedelta(0), Metrics())
    async with running([closing("lookup", lookup.close), tracker]):
        yield PacedQuestions(limiter, tracker, lookup, kind, at_once=at_once)


def asked(provider: Provider) -> int:
    return sum(request.method == "GET" for request in provider.requests())


async def test_a_question_that_finds_no_slot_in_time_is_not_asked(
    redis: Redis, redis_key_prefix: str, simulator: Provider
) -> None:
    limiter = limiter_of(redis, redis_key_prefix, account=1)
    async with questions_of(limiter, simulator, QuestionKind.EVIDENCE) as questions:
        result = await questions.ask("nobody's", SOON)
        assert result is not None
        assert result.outcome is LookupOutcome.NOT_FOUND
        assert await questions.ask("nobody's", SHORTLY) is None
    assert asked(simulator) == 1
    assert isinstance(await limiter.acquire("tenant", 1), Throttled)  # it counted as one of the account's requests


async def test_a_question_nobody_wants_any_more_is_not_asked(
    redis: Redis, redis_key_prefix: str, simulator: Provider
) -> None:
    limiter = limiter_of(redis, redis_key_prefix, account=None)
    async with questions_of(limiter, simulator, QuestionKind.REFRESH) as questions:
        assert await questions.ask("nobody's", SOON, wanted=lambda: False) is None
    assert asked(simulator) == 0


async def test_no_more_questions_are_under_way_than_may_be_at_once(
    redis: Redis, redis_key_prefix: str, simulator: Provider
) -> None:
    limiter = limiter_of(redis, redis_key_prefix, account=None)
    answering = timedelta(seconds=0.2)
    slow = Behaviour(latency=Latency(constant_seconds=answering.total_seconds()))
    simulator.script(slow, repeat=6, match=Match(path="get"))
    async with questions_of(limiter, simulator, QuestionKind.REFRESH, at_once=2) as questions:
        results = await asyncio.gather(*(questions.ask(f"nobody's {number}", SOON) for number in range(6)))
    assert all(result is not None and result.outcome is LookupOutcome.NOT_FOUND for result in results)
    times = [request.arrived_at for request in simulator.requests() if request.method == "GET"]
    assert len(times) == 6
    assert busiest_window(times, answering) == 2


async def test_a_429_to_any_question_lets_the_refreshes_rest_and_sends_go_on(
    redis: Redis, redis_key_prefix: str, simulator: Provider
) -> None:
    limiter = limiter_of(redis, redis_key_prefix, account=None)
    simulator.script(Behaviour(status=429, retry_after="seconds", retry_after_seconds=60), match=Match(path="get"))
    async with questions_of(limiter, simulator, QuestionKind.EVIDENCE) as questions:
        result = await questions.ask("nobody's", SOON)
    assert result is not None
    assert (result.outcome, result.retry_after) == (LookupOutcome.TOO_FAST, timedelta(minutes=1))
    throttled = await limiter.acquire_refresh()
    assert isinstance(throttled, Throttled)
    assert throttled.wait > timedelta(seconds=50)
    assert isinstance(await limiter.acquire("tenant", 1), Permit)
