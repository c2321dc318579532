"""Pauses before something is tried again."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servicekit.backoff import Backoff

SECOND = timedelta(seconds=1)


def test_pauses_double_up_to_the_longest() -> None:
    backoff = Backoff(timedelta(seconds=0.5), longest=30 * SECOND)
    pauses = [backoff.after(failures).total_seconds() for failures in range(1, 10)]
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert backoff.after(10_000) == 30 * SECOND


def test_a_pause_without_a_bound_stays_a_duration() -> None:
    assert Backoff(timedelta(hours=1)).after(10_000) < timedelta.max


def test_the_first_failure_is_number_one() -> None:
    with pytest.raises(ValueError, match="negative shift count"):
        Backoff(SECOND).after(0)


@given(st.integers(1, 100), st.floats(0, 1), st.floats(0, 1))
def test_jitter_moves_a_pause_by_its_spread_at_most(failures: int, spread: float, randomness: float) -> None:
    backoff = Backoff(SECOND, longest=60 * SECOND, spread=spread)
    pause, moved = backoff.after(failures), backoff.jittered(failures, randomness)
    rounding = timedelta(microseconds=1)
    assert pause * (1 - spread) - rounding <= moved <= pause * (1 + spread) + rounding


def test_without_a_spread_nothing_is_jittered() -> None:
    assert Backoff(SECOND).jittered(3, 0.9) == 4 * SECOND
