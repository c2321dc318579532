"""Fairness and priority: how long others wait while a million is sent, and how evenly many large ones progress."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Mapping, Sequence

from benchmarks.dispatcher.processes import Bench
from benchmarks.dispatcher.rivals import Queue, queue
from benchmarks.dispatcher.throughput import FIRST_PHONE, header_for, submit
from benchmarks.report import Figure, percentile_ms
from bulksms.dispatcher.v1 import dispatch_pb2
from bulksms.types.v1 import types_pb2

_SMALL_FIRST, _SINGLE_FIRST = 447_700_000_000, 491_500_000_000
_SMALL = 10
_BATCHES_EACH = 10


async def small_beside_large(
    bench: Bench, large: int, batch_size: int, small: int, latency_seconds: float
) -> list[Figure]:
    """One tenant's many are sent; meanwhile others come with ten each, of the same priority."""
    async with queue(bench, f"fairness_{round(latency_seconds * 1000)}", batch_size, latency_seconds) as running:
        header = header_for("large")
        started, asked, _ = await _overtake(running, header, large, small, 0)
        at = running.accepted_at(started, large + small * _SMALL)
    waits = [_last(at, phones) - asked_at for phones, asked_at in asked]
    scenario = f"fairness: {small} tenants with {_SMALL} each while another's {large:,} are sent"
    return [_overtaken(scenario, large, waits, at, latency_seconds)]


async def urgent_before_low(
    bench: Bench, large: int, batch_size: int, each: int, latency_seconds: float
) -> list[Figure]:
    """A low-priority campaign is sent; meanwhile normal ones of ten come, and urgent single messages."""
    async with queue(bench, "priority", batch_size, latency_seconds) as running:
        header = header_for("large", types_pb2.PRIORITY_LOW)
        started, asked, urgent = await _overtake(running, header, large, each, each)
        at = running.accepted_at(started, large + each * _SMALL + each)
    waits = {
        f"{each} normal campaigns of {_SMALL}": [_last(at, phones) - asked_at for phones, asked_at in asked],
        f"{each} urgent messages": [at[phone] - asked_at for phone, asked_at in urgent],
    }
    return [
        _overtaken(f"priority: {who} while a low {large:,} is sent", large, spent, at, latency_seconds)
        for who, spent in waits.items()
    ]


async def many_at_once(bench: Bench, recipients: int, tenants: int, latency_seconds: float) -> list[Figure]:
    """All of the same priority and size, released together."""
    each = recipients // tenants
    # Ten batches each: with one, there would be an order but no progress to compare.
    async with queue(bench, "tenants", max(each // _BATCHES_EACH, 1), latency_seconds) as running:
        headers = [header_for(f"tenant-{number}") for number in range(tenants)]
        phones = range(FIRST_PHONE, FIRST_PHONE + each * tenants)
        started = time.time()
        await running.fill(headers, each, phones)
        released_at = time.time()
        await running.release(headers)
        all_released_at = time.time()
        await running.drained()
        at = running.accepted_at(started, each * tenants)
    moments = [sorted(at[phone] - released_at for phone in phones[n * each : (n + 1) * each]) for n in range(tenants)]
    half_at = statistics.median(moment for of_tenant in moments for moment in of_tenant)
    shares = [sum(moment <= half_at for moment in of_tenant) / each for of_tenant in moments]
    first, last = [of_tenant[0] for of_tenant in moments], [of_tenant[-1] for of_tenant in moments]
    more = {
        "all released after s": all_released_at - released_at,
        "first batch s, fastest tenant": min(first),
        "slowest": max(first),
        "done s, fastest tenant": min(last),
        "slowest one": max(last),
        "Jain's index at half time": _jain(shares),
        "smallest share sent then": min(shares),
        "largest": max(shares),
    }
    scenario = f"fairness: {tenants} tenants with {each:,} each at once, until the first batch of each"
    return [_figure(scenario, each * tenants, max(last), first, more)]


async def _overtake(
    running: Queue, header: dispatch_pb2.SubmissionHeader, large: int, small: int, single: int
) -> tuple[float, list[tuple[range, float]], list[tuple[int, float]]]:
    """Send the large one and, spread over it, small campaigns and single messages; when each was asked for.

    The clock of each starts before its call: what taking it in costs counts as waiting.
    """
    started = time.time()
    await running.fill([header], large, range(FIRST_PHONE, FIRST_PHONE + large))
    asked: list[tuple[range, float]] = []
    urgent: list[tuple[int, float]] = []
    await running.release([header])
    async with asyncio.TaskGroup() as group:
        async for number in running.moments(header.campaign_id, max(small, single)):
            if number < small:
                first = _SMALL_FIRST + number * _SMALL
                asked.append((range(first, first + _SMALL), time.time()))
                submission = submit(next(running.dispatch), header_for(f"small-{number}"), _SMALL, first)
                group.create_task(submission)
            if number < single:
                urgent.append((_SINGLE_FIRST + number, time.time()))
                group.create_task(running.send_one(f"single-{number}", _SINGLE_FIRST + number))
    await running.drained()
    return started, asked, urgent


def _overtaken(
    scenario: str, large: int, waits: Sequence[float], at: Mapping[int, float], latency_seconds: float
) -> Figure:
    moments = [at[phone] for phone in range(FIRST_PHONE, FIRST_PHONE + large)]
    seconds = max(moments) - min(moments)
    more = {"the large one took s": seconds, "provider takes s": latency_seconds}
    return _figure(scenario, len(at), seconds, waits, more)


def _figure(scenario: str, items: int, seconds: float, waits: Sequence[float], more: Mapping[str, float]) -> Figure:
    return Figure(
        scenario,
        items,
        max(round(seconds, 3), 1e-9),
        percentile_ms(waits, 0.5),
        max_ms=round(max(waits) * 1000, 2),
        more={name: round(value, 4) for name, value in more.items()},
    )


def _last(at: Mapping[int, float], phones: Sequence[int]) -> float:
    return max(at[phone] for phone in phones)


def _jain(shares: Sequence[float]) -> float:
    """1 when all are equal, 1/n when one has everything."""
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))
