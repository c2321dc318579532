"""The soak in short: what `make soak` runs for half an hour runs here for some seconds, and must find nothing."""

from __future__ import annotations

import pytest

from benchmarks.soak.run import REPLICAS, soak
from benchmarks.soak.traffic import Pace
from devstack.stack import Stack


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_short_soak_loses_nothing_sends_nothing_twice_and_leaves_nothing_behind(soak_stack: Stack) -> None:
    result = soak(soak_stack, Pace(seconds=8, campaign_every_seconds=2, single_every_seconds=0.5))
    assert result.problems == []
    assert result.campaigns >= 2
    assert result.single_messages >= 5
    assert result.provider.reports.lost, "status refreshes had something to do"
    expected = {f"{service}-{number}" for service, count in REPLICAS.items() for number in range(count)}
    assert {one.process for one in result.growth} >= expected
