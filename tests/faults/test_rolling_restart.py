"""A rolling restart under load: each dispatcher in turn is asked to end, and what it has on the wire it finishes.

`make test` goes round once, `make test-faults` FAULT_ROLLS=20 times.
"""

from __future__ import annotations

import os

import pytest

from devstack.mitto.behaviours import Behaviour, Latency
from devstack.mitto.client import Simulator
from devstack.mitto.rules import Rule
from devstack.stack import Stack
from tests.e2e.shop import Shop
from tests.faults.load import Load, check
from tests.faults.transitions import ARMED, TransitionLog, ambiguous

ROLLS = int(os.environ.get("FAULT_ROLLS", "1"))
RECIPIENTS = 1_000
SLOW = Rule(Behaviour(latency=Latency(median_seconds=0.5, sigma=0.7, max_seconds=2.0)))
GRACE_SECONDS = 30.0


@pytest.mark.timeout(240 + 60 * ROLLS)
def test_a_rolling_restart_under_load_leaves_nothing_unresolved(
    fault_stack: Stack, simulator: Simulator, shop: Shop, transitions: TransitionLog
) -> None:
    simulator.set_behaviour(rules=[SLOW])
    load = Load(shop, simulator, RECIPIENTS)
    for _ in range(ROLLS):
        for number in range(3):
            load.top_up()
            load.wait_until_accepted(load.accepted() + 20)
            process = fault_stack.process("dispatcher", number)
            process.stop(GRACE_SECONDS)
            assert process.returncode == 0, "it ended by itself"
            process.start()
    for reconciled in load.finish():
        check(reconciled, RECIPIENTS)
    seen = transitions.read()
    assert ambiguous(seen) == {}
    assert {one.attempt[1] for one in seen if one.target == ARMED} == {0}, "what was handed back had not been armed"
