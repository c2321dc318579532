"""Outages in mid-campaign: servers killed, services stopped; everything is sent once, reported and paid for.

`make test` runs short ones. In `make test-faults` campaign and ledger are away for FAULT_OUTAGE_SECONDS=60; what is
killed is killed FAULT_OUTAGES=10 times and is away for as long in all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from devstack.eventually import eventually_blocking
from devstack.mitto.behaviours import Behaviour, Latency
from devstack.mitto.client import Simulator
from devstack.mitto.rules import Rule
from devstack.stack import Stack
from tests.e2e.shop import Shop
from tests.faults.load import Load, check
from tests.faults.transitions import TransitionLog, ambiguous, armed_by

SECONDS = float(os.environ.get("FAULT_OUTAGE_SECONDS", "4"))
OUTAGES = int(os.environ.get("FAULT_OUTAGES", "1"))
RECIPIENTS = 1_000
SLOW = Rule(Behaviour(latency=Latency(median_seconds=0.3, sigma=0.7, max_seconds=2.0)))

pytestmark = pytest.mark.timeout(240 + OUTAGES * (SECONDS + 60))


@pytest.fixture
def load(simulator: Simulator, shop: Shop) -> Load:
    """A campaign under way."""
    simulator.set_behaviour(rules=[SLOW])
    load = Load(shop, simulator, RECIPIENTS)
    load.add()
    return load


def finish(load: Load) -> None:
    for reconciled in load.finish():
        check(reconciled, RECIPIENTS)


def test_a_killed_and_emptied_redis_costs_time_only(fault_stack: Stack, load: Load, transitions: TransitionLog) -> None:
    valkey = fault_stack.servers.valkey
    assert valkey is not None
    for _ in range(OUTAGES):
        in_the_middle(load)
        with fault_stack.servers.redis() as client:
            client.flushall()
        load.wait_until_accepted(load.accepted() + 100)
        with outage(valkey.kill, valkey.start, SECONDS / OUTAGES):
            pass  # it keeps nothing on disk: what comes back is empty
    finish(load)
    assert ambiguous(transitions.read()) == {}


def test_a_killed_postgresql_costs_time_only(fault_stack: Stack, load: Load, transitions: TransitionLog) -> None:
    postgres = fault_stack.servers.postgres
    assert postgres is not None
    killed: list[tuple[datetime, datetime]] = []
    for _ in range(OUTAGES):
        in_the_middle(load)
        with outage(postgres.kill, postgres.start, SECONDS / OUTAGES) as struck_at:
            pass
        killed.append((struck_at, datetime.now(UTC)))
    finish(load)
    seen = transitions.read()
    armed = {attempt for struck_at, back_at in killed for attempt in armed_by(seen, None, struck_at, back_at)}
    assert ambiguous(seen).keys() <= armed


@pytest.mark.parametrize("service", ["campaign", "ledger"])
def test_a_service_that_is_away_costs_time_only(
    fault_stack: Stack, load: Load, transitions: TransitionLog, service: str
) -> None:
    process = fault_stack.process(service)
    in_the_middle(load)
    with outage(process.stop, process.start, SECONDS):
        pass
    finish(load)
    assert ambiguous(transitions.read()) == {}


def test_a_gateway_killed_while_reports_come_loses_none_even_if_the_provider_repeats_nothing(
    fault_stack: Stack, simulator: Simulator, load: Load, transitions: TransitionLog
) -> None:
    gateway = fault_stack.process("dlr-gateway")
    for _ in range(OUTAGES):
        in_the_middle(load)
        acknowledged = simulator.stats().reports.acknowledged
        eventually_blocking(
            lambda least=acknowledged: simulator.stats().reports.acknowledged > least,  # type: ignore[misc]
            30,
            "reports",
        )
        with outage(gateway.kill, gateway.start, SECONDS / OUTAGES):
            pass
    assert simulator.stats().reports.failed > 0, "some were lost: the provider is asked for them"
    finish(load)
    assert ambiguous(transitions.read()) == {}


def in_the_middle(load: Load) -> None:
    """Wait until a campaign is well under way and far from its end."""
    load.top_up()
    load.wait_until_accepted(load.accepted() + 100)
    assert load.left() > 200, "mid-campaign"


@contextmanager
def outage(end: Callable[[], None], begin: Callable[[], None], seconds: float) -> Iterator[datetime]:
    """What is ended stays away for so long; when it ended."""
    end()
    ended_at, until = datetime.now(UTC), time.monotonic() + seconds
    try:
        yield ended_at
        time.sleep(max(0.0, until - time.monotonic()))
    finally:
        begin()
