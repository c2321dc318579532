from __future__ import annotations

import asyncio
import itertools

import pytest

from devstack.eventually import eventually, eventually_blocking


async def test_a_condition_is_asked_again_until_it_is_true_and_its_value_returned() -> None:
    asked = itertools.count()
    assert await eventually(lambda: next(asked) == 3 and "found", every_seconds=0.001) == "found"
    assert next(asked) == 4
    assert eventually_blocking(lambda: next(asked) == 7 and "found", every_seconds=0.001) == "found"


async def test_a_condition_can_be_awaited() -> None:
    asked = itertools.count()

    async def fourth() -> bool:
        return next(asked) == 3

    assert await eventually(fourth, every_seconds=0.001) is True


async def test_what_does_not_happen_in_time_is_an_error_that_names_it() -> None:
    with pytest.raises(TimeoutError, match=r"waited 0.01 s for the end"):
        await eventually(lambda: False, 0.01, "the end")
    with pytest.raises(TimeoutError, match=r"waited 0.01 s for the end"):
        eventually_blocking(lambda: False, 0.01, "the end")


async def test_a_condition_that_hangs_is_cancelled_at_the_deadline() -> None:
    with pytest.raises(TimeoutError, match=r"waited 0.01 s for a condition"):
        await eventually(asyncio.Event().wait, 0.01)
