"""The loop of a periodic worker, and the order in which components start and stop."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from random import Random

import pytest

from devstack.eventually import eventually
from servicekit.lifecycle import ComponentEnded, closing, running
from servicekit.waiting import is_set_within
from servicekit.worker import PeriodicWorker

FOREVER = timedelta(hours=1)
PATIENCE = 5.0


class Rounds:
    """A body that counts its rounds and does what a list says."""

    def __init__(self, *outcomes: bool | Exception | None) -> None:
        self.outcomes = list(outcomes)
        self.count = 0
        self._changed = asyncio.Condition()

    async def __call__(self) -> bool | None:
        async with self._changed:
            self.count += 1
            self._changed.notify_all()
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def reached(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE), self._changed:
            await self._changed.wait_for(lambda: self.count >= count)


async def test_a_body_that_has_more_is_called_again_at_once() -> None:
    rounds = Rounds(True, True, False)
    async with running([PeriodicWorker("w", FOREVER, rounds)]):
        await rounds.reached(3)
    assert rounds.count == 3


async def test_a_notification_ends_the_pause_even_when_it_comes_during_a_round() -> None:
    rounds = Rounds()
    worker = PeriodicWorker("w", FOREVER, rounds)

    async def body() -> None:
        await rounds()
        if rounds.count == 2:
            worker.notify()

    worker = PeriodicWorker("w", FOREVER, body)
    async with running([worker]):
        await rounds.reached(1)
        worker.notify()
        await rounds.reached(3)
    assert rounds.count == 3


async def test_with_linger_one_round_answers_all_notifications_that_come_meanwhile() -> None:
    rounds = Rounds()
    worker = PeriodicWorker("w", FOREVER, rounds, linger=timedelta(milliseconds=200))
    loop = asyncio.get_running_loop()
    async with running([worker]):
        await rounds.reached(1)
        began = loop.time()
        for _ in range(10):
            worker.notify()
            await asyncio.sleep(0.001)
        await rounds.reached(2)
        assert loop.time() - began >= 0.2
    assert rounds.count == 2


async def test_a_failing_body_is_called_again_after_a_pause_that_no_notification_shortens() -> None:
    rounds = Rounds(ValueError("one"), ValueError("two"), None)
    worker = PeriodicWorker("w", FOREVER, rounds, random=Random(1))
    loop = asyncio.get_running_loop()
    began = loop.time()
    async with running([worker]):
        for count in (1, 2, 3):
            await rounds.reached(count)
            worker.notify()
    assert loop.time() - began > 0.4  # 0.2 s and 0.4 s, each ±25 %


async def test_a_body_over_its_time_is_a_failure_not_a_hang() -> None:
    entered = 0

    async def body() -> None:
        nonlocal entered
        entered += 1
        await asyncio.Event().wait()

    async with running([PeriodicWorker("w", FOREVER, body, body_timeout=timedelta(milliseconds=10))]):
        await eventually(lambda: entered == 2, 10)


async def test_stopping_lets_the_round_in_progress_finish() -> None:
    entered, finished = asyncio.Event(), asyncio.Event()

    async def body() -> None:
        entered.set()
        await asyncio.sleep(0.05)
        finished.set()

    async with running([PeriodicWorker("w", FOREVER, body)]):
        await entered.wait()
    assert finished.is_set()


async def test_a_round_that_does_not_finish_is_cancelled_when_the_bound_is_over() -> None:
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def body() -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with asyncio.timeout(PATIENCE):
        async with running([PeriodicWorker("w", FOREVER, body)], stop_timeout=timedelta(milliseconds=50)):
            await entered.wait()
    assert cancelled.is_set()


class Recorded:
    """A component that writes down what happens to it."""

    def __init__(
        self, name: str, log: list[str], *, start: Exception | None = None, stop: Exception | None = None
    ) -> None:
        self.name, self.log, self.errors = name, log, (start, stop)

    async def start(self) -> None:
        if self.errors[0]:
            raise self.errors[0]
        self.log.append(f"+{self.name}")

    async def stop(self) -> None:
        self.log.append(f"-{self.name}")
        if self.errors[1]:
            raise self.errors[1]


class Falling(Recorded):
    """A component whose own work fails, or ends."""

    failure: Exception | None = None

    async def run(self) -> None:
        if self.failure:
            raise self.failure


async def test_components_stop_in_the_reverse_of_their_order_whatever_one_of_them_does() -> None:
    log: list[str] = []

    async def close() -> None:
        log.append("-channel")

    components = [
        Recorded("a", log),
        closing("channel", close),
        Recorded("b", log, stop=ValueError()),
        Recorded("c", log),
    ]
    async with running(components):
        assert log == ["+a", "+b", "+c"]
    assert log == ["+a", "+b", "+c", "-c", "-b", "-channel", "-a"]


async def test_a_component_that_cannot_start_stops_those_before_it_only() -> None:
    log: list[str] = []
    components = [Recorded("a", log), Recorded("b", log, start=ValueError("no")), Recorded("c", log)]
    with pytest.raises(ExceptionGroup) as caught:
        async with running(components):
            pytest.fail("must not get here")
    assert caught.group_contains(ValueError, match="no")
    assert log == ["+a", "-a"]


@pytest.mark.parametrize("failure", [OSError("broken"), None])
async def test_a_component_that_falls_takes_the_process_down_in_order(failure: Exception | None) -> None:
    log: list[str] = []
    falling = Falling("b", log)
    falling.failure = failure
    with pytest.raises(ExceptionGroup) as caught:
        async with running([Recorded("a", log), falling]):
            await asyncio.sleep(PATIENCE)
    assert caught.group_contains(OSError if failure else ComponentEnded)
    assert log == ["+a", "+b", "-b", "-a"]


async def test_a_wait_for_an_event_tells_whether_it_came() -> None:
    event = asyncio.Event()
    assert not await is_set_within(event, 0.01)
    asyncio.get_running_loop().call_soon(event.set)
    assert await is_set_within(event, 60)
    assert await is_set_within(event, 0), "it is set already"
