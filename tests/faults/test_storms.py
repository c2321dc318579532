"""Storms: dispatchers are killed and frozen at random moments of many campaigns; nobody twice, nobody lost.

Seeded: each strike comes once the provider has taken a number of messages drawn beforehand, so that strikes are spread
over all campaigns however fast the machine is. `make test` runs a short storm; `make test-faults` runs FAULT_KILLS=200
kills and FAULT_FREEZES=100 freezes over FAULT_CAMPAIGNS=50 campaigns.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest

from devstack.eventually import eventually_blocking
from devstack.mitto.behaviours import Behaviour, Latency
from devstack.mitto.client import Simulator
from devstack.mitto.rules import Rule
from devstack.processes import ManagedProcess
from devstack.stack import Stack
from tests.e2e.shop import Shop
from tests.faults.load import Load, check
from tests.faults.transitions import Attempt, TransitionLog, ambiguous, armed_by

KILLS = int(os.environ.get("FAULT_KILLS", "4"))
FREEZES = int(os.environ.get("FAULT_FREEZES", "2"))
CAMPAIGNS = int(os.environ.get("FAULT_CAMPAIGNS", "3"))
SEED = int(os.environ.get("FAULT_SEED", "20261122"))
RECIPIENTS = 1_000
_DISPATCHERS = 3
# Up to longer than a lease: the worker comes back as a zombie.
FREEZE_SECONDS = (0.5, 18.0)
# Half of the requests wait before they are accepted, half after it: strikes meet both. Far below the soft timeout.
SLOW = Latency(median_seconds=0.5, sigma=0.7, max_seconds=2.0)
PROVIDER = [Rule(Behaviour(latency_before_acceptance=SLOW), share=0.5), Rule(Behaviour(latency=SLOW))]


@pytest.mark.timeout(300 + 30 * (KILLS + FREEZES) + 60 * CAMPAIGNS)
def test_a_storm_of_kills_and_freezes_sends_nobody_a_second_text_and_loses_nobody(
    fault_stack: Stack, simulator: Simulator, shop: Shop, transitions: TransitionLog
) -> None:
    simulator.set_behaviour(rules=PROVIDER)
    load = Load(shop, simulator, RECIPIENTS, audiences=min(CAMPAIGNS, 10))
    chance = random.Random(SEED)
    # What was armed and not sent, and who is deferred for it, waits for an operator: strikes end before messages do.
    moments = sorted(chance.sample(range(int(CAMPAIGNS * RECIPIENTS * 0.8)), KILLS + FREEZES))
    kinds = [_kill] * KILLS + [_freeze] * FREEZES
    chance.shuffle(kinds)
    with ThreadPoolExecutor(3, thread_name_prefix="storm") as threads:
        storm = _Storm(fault_stack, chance, threads)
        for moment, kind in zip(moments, kinds, strict=True):
            _advance(load, moment)
            storm.strike(kind)
        storm.calm()
    while len(load.campaigns) < CAMPAIGNS:
        load.add()
    reconciled = load.finish(seconds=120 + 10 * CAMPAIGNS)

    for one in reconciled:
        check(one, RECIPIENTS)
    seen = transitions.read()
    armed: set[Attempt] = set()
    for strike in storm.strikes:
        armed |= armed_by(seen, strike.pid, strike.struck_at, strike.back_at)
    seen_ambiguous = ambiguous(seen)
    unexplained = {attempt: why for attempt, why in seen_ambiguous.items() if attempt not in armed}
    assert unexplained == {}, "ambiguous without a strike"
    figures = {
        "kills": KILLS,
        "freezes": FREEZES,
        "seed": SEED,
        "campaigns": len(reconciled),
        "accepted by the provider": sum(len(one.accepted) for one in reconciled),
        "recipients": sum((one.statuses() for one in reconciled), Counter()),
        "batches armed at a strike": len(armed),
        "ambiguous": len(seen_ambiguous),
        "why": Counter(seen_ambiguous.values()),
        "resolved by": transitions.endings(seen_ambiguous),
    }
    print(f"\n{figures}")  # noqa: T201


def _advance(load: Load, moment: int) -> None:
    """Wait until the provider has taken so many messages; campaigns follow one another without a pause."""

    def reached() -> bool:
        if len(load.campaigns) < CAMPAIGNS:
            load.top_up()
        return load.accepted() >= moment

    eventually_blocking(reached, 300, f"{moment} messages at the provider", every_seconds=0.02)


@dataclass(frozen=True, slots=True)
class _Strike:
    """When a process was struck, and from when on it could act again."""

    pid: int
    struck_at: datetime
    back_at: datetime


class _Storm:
    """Strikes dispatchers, one at a time or several; each is brought back in a thread."""

    def __init__(self, stack: Stack, chance: random.Random, threads: ThreadPoolExecutor) -> None:
        self._stack = stack
        self._chance = chance
        self._threads = threads
        self._busy: dict[int, Future[_Strike]] = {}
        self.strikes: list[_Strike] = []

    def strike(self, kind: Callable[[ManagedProcess, random.Random], _Strike]) -> None:
        """Strike a dispatcher that is well; wait for one when none is."""
        if len(self._busy) == _DISPATCHERS:
            wait(self._busy.values(), return_when=FIRST_COMPLETED)
        for number in [number for number, under_way in self._busy.items() if under_way.done()]:
            self.strikes.append(self._busy.pop(number).result())
        number = self._chance.choice([number for number in range(_DISPATCHERS) if number not in self._busy])
        self._busy[number] = self._threads.submit(kind, self._stack.process("dispatcher", number), self._chance)

    def calm(self) -> None:
        """Wait until every dispatcher is back."""
        self.strikes += [under_way.result() for under_way in self._busy.values()]
        self._busy.clear()


def _kill(process: ManagedProcess, _chance: random.Random) -> _Strike:
    pid = process.pid or 0
    process.kill()
    struck_at = datetime.now(UTC)
    process.start()  # as another process: this one arms nothing any more
    return _Strike(pid, struck_at, datetime.now(UTC))


def _freeze(process: ManagedProcess, chance: random.Random) -> _Strike:
    process.pause()
    struck_at = datetime.now(UTC)
    time.sleep(chance.uniform(*FREEZE_SECONDS))
    back_at = datetime.now(UTC)
    process.resume()
    return _Strike(process.pid or 0, struck_at, back_at)
