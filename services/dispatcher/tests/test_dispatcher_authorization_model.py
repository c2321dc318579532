"""Arm, authorize, send: every interleaving of one person's message, two workers, crashes, freezes, calls that arrive
late, a batch that is cut again, and one database of the two that is set back to any earlier moment.

A model, not the code: the person must be sent to at most once, and what was given up may not stay authorized, which
would leave something unresolved that is certain. The rules are switches, and each one switched off must produce its
violation.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

import pytest

pytestmark = pytest.mark.slow

WORKERS, ATTEMPTS = 2, 3
NOBODY = -1


class State(Enum):
    """Where a row is."""

    READY = 0
    LEASED = 1
    ARMED = 2
    ACCEPTED = 3
    AMBIGUOUS = 4


class Step(Enum):
    """Where a worker is."""

    IDLE = 0
    CLAIMED = 1
    ARMED = 2
    ASKED = 3
    AUTHORIZED = 4
    SENT = 5
    VOIDED = 6


@dataclass(frozen=True)
class Row:
    """A batch of the one person. Cut again, there are two of them."""

    state: State = State.READY
    attempt: int = NOBODY
    epoch: int = 0


@dataclass(frozen=True)
class Worker:
    """What it does, for which row, under which attempt."""

    step: Step = Step.IDLE
    row: int = 0
    attempt: int = NOBODY


@dataclass(frozen=True)
class Ledger:
    """Attempts that are authorized, and those that never will be again."""

    authorized: frozenset[int] = frozenset()
    ended: frozenset[int] = frozenset()
    knows_all: bool = True
    """False after it was set back, until it has learnt again what others know."""


@dataclass(frozen=True)
class World:
    """The two databases, what is in memory, what is on the wire, and the provider's truth."""

    rows: tuple[Row, ...] = (Row(),)
    ledger: Ledger = Ledger()
    workers: tuple[Worker, ...] = (Worker(),) * WORKERS
    calls: frozenset[int] = frozenset()
    """Authorizations on their way, perhaps for long."""
    drawn: int = 0
    sends: int = 0
    given_up: frozenset[int] = frozenset()
    restores: int = 0
    earlier_rows: frozenset[tuple[Row, ...]] = frozenset()
    earlier_ledgers: frozenset[Ledger] = frozenset()


@dataclass(frozen=True)
class Rules:
    """What the protocol demands, and what happens once: all of it together has too many worlds."""

    rows_are_set_back: bool = False
    ledger_is_set_back: bool = False
    batch_is_cut_again: bool = False

    void_leaves_a_tombstone: bool = True
    withdraw_leaves_a_tombstone: bool = True
    void_is_acknowledged_before_ready: bool = True
    positions_are_authorized_once: bool = True
    nobody_sends_after_its_time: bool = True
    attempts_are_drawn_at_random: bool = True
    a_ledger_set_back_learns_again: bool = True


def changed(world: World, **values: object) -> World:
    return replace(world, **values)  # type: ignore[arg-type]


def with_row(world: World, index: int, row: Row) -> tuple[Row, ...]:
    return (*world.rows[:index], row, *world.rows[index + 1 :])


def at(world: World, index: int, step: Step, row: int = 0, attempt: int = NOBODY) -> tuple[Worker, ...]:
    worker = Worker() if step is Step.IDLE else Worker(step, row, attempt)
    return (*world.workers[:index], worker, *world.workers[index + 1 :])


def successors(world: World, rules: Rules) -> Iterator[World]:
    for after in steps(world, rules):
        if rules.rows_are_set_back and not world.restores and after.rows != world.rows:
            yield replace(after, earlier_rows=after.earlier_rows | {world.rows})
        elif rules.ledger_is_set_back and not world.restores and after.ledger != world.ledger:
            yield replace(after, earlier_ledgers=after.earlier_ledgers | {world.ledger})
        else:
            yield after


def steps(world: World, rules: Rules) -> Iterator[World]:
    for index, worker in enumerate(world.workers):
        yield from worker_steps(world, index, worker, rules)
    yield from calls_received(world, rules)
    for index, row in enumerate(world.rows):
        yield from reaped(world, index, row, rules)
    if rules.batch_is_cut_again and len(world.rows) == 1:
        yield changed(world, rows=(*world.rows, Row()))
    yield from restores(world, rules)


def worker_steps(world: World, index: int, worker: Worker, rules: Rules) -> Iterator[World]:
    attempt = worker.attempt
    if worker.step is Step.IDLE:
        yield from claims(world, index, rules)
        return
    yield changed(world, workers=at(world, index, Step.IDLE))  # crash
    row = world.rows[worker.row] if worker.row < len(world.rows) else Row()
    if row.attempt == attempt:
        yield from steps_on_own_row(world, index, row)
    match worker.step:
        case Step.ARMED:
            asked = at(world, index, Step.ASKED, worker.row, attempt)
            yield changed(world, workers=asked, calls=world.calls | {attempt})
        case Step.ASKED if rules.nobody_sends_after_its_time:
            yield voided(world, index, rules)
        case Step.AUTHORIZED:
            yield changed(world, workers=at(world, index, Step.SENT, worker.row, attempt), sends=world.sends + 1)
            yield voided(world, index, rules)  # refused by the provider, or no byte left


def steps_on_own_row(world: World, index: int, row: Row) -> Iterator[World]:
    """Compare-and-sets on the state and the attempt."""
    worker = world.workers[index]
    match worker.step, row.state:
        case Step.CLAIMED, State.LEASED:
            armed = with_row(world, worker.row, replace(row, state=State.ARMED))
            yield changed(world, rows=armed, workers=at(world, index, Step.ARMED, worker.row, worker.attempt))
        case Step.VOIDED, State.ARMED:
            yield changed(world, rows=ready(world, worker.row), workers=at(world, index, Step.IDLE))
        case Step.SENT, State.ARMED | State.AMBIGUOUS:
            accepted = with_row(world, worker.row, replace(row, state=State.ACCEPTED))
            yield changed(world, rows=accepted, workers=at(world, index, Step.IDLE))


def claims(world: World, index: int, rules: Rules) -> Iterator[World]:
    for number, row in enumerate(world.rows):
        if row.state is State.READY and world.drawn < ATTEMPTS:
            attempt = world.drawn if rules.attempts_are_drawn_at_random else row.epoch
            leased = with_row(world, number, Row(State.LEASED, attempt, row.epoch))
            workers = at(world, index, Step.CLAIMED, number, attempt)
            yield changed(world, rows=leased, workers=workers, drawn=world.drawn + 1)


def ready(world: World, index: int) -> tuple[Row, ...]:
    return with_row(world, index, Row(State.READY, NOBODY, world.rows[index].epoch + 1))


def voided(world: World, index: int, rules: Rules) -> World:
    """Acknowledged by the ledger; the row follows in a step of its own."""
    worker, ledger = world.workers[index], world.ledger
    ended = ledger.ended | {worker.attempt} if rules.void_leaves_a_tombstone else ledger.ended
    after = replace(ledger, authorized=ledger.authorized - {worker.attempt}, ended=ended)
    workers = at(world, index, Step.VOIDED, worker.row, worker.attempt)
    return changed(world, ledger=after, workers=workers, given_up=world.given_up | {worker.attempt})


def calls_received(world: World, rules: Rules) -> Iterator[World]:
    """Now, or much later."""
    ledger = world.ledger
    if not ledger.knows_all:
        return
    for attempt in world.calls:
        calls = world.calls - {attempt}
        asking = [i for i, w in enumerate(world.workers) if w.step is Step.ASKED and w.attempt == attempt]
        repeated = not rules.attempts_are_drawn_at_random and attempt in ledger.authorized
        taken = rules.positions_are_authorized_once and ledger.authorized
        if not repeated and (attempt in ledger.ended or attempt in ledger.authorized or taken):
            yield from refused(world, attempt, asking, calls)
            continue
        after = replace(ledger, authorized=ledger.authorized | {attempt})
        if not asking:
            yield changed(world, ledger=after, calls=calls)
            continue
        row = world.workers[asking[0]].row
        yes = at(world, asking[0], Step.AUTHORIZED, row, attempt)
        yield changed(world, ledger=after, calls=calls, workers=yes)
        if not rules.nobody_sends_after_its_time:  # void when its time was over, and sent when the yes came
            yield changed(world, calls=calls, workers=yes, rows=ready(world, row))


def refused(world: World, attempt: int, asking: list[int], calls: frozenset[int]) -> Iterator[World]:
    if not asking:
        yield changed(world, calls=calls)
        return
    number = world.workers[asking[0]].row
    row, rows = world.rows[number] if number < len(world.rows) else Row(), world.rows
    if row.state is State.ARMED and row.attempt == attempt and world.ledger.authorized:
        rows = with_row(world, number, replace(row, state=State.AMBIGUOUS))
    yield changed(world, rows=rows, calls=calls, workers=at(world, asking[0], Step.IDLE))


def reaped(world: World, index: int, row: Row, rules: Rules) -> Iterator[World]:
    ledger = world.ledger
    if row.state is State.LEASED:
        yield changed(world, rows=ready(world, index))
    if row.state is not State.ARMED:
        return
    if not rules.void_is_acknowledged_before_ready:  # the row's word is taken, and the ledger hears of it afterwards
        taken_back = replace(ledger, authorized=ledger.authorized - {row.attempt})
        yield changed(world, rows=ready(world, index), ledger=taken_back)
    if not ledger.knows_all:
        return
    if row.attempt in ledger.authorized:
        yield changed(world, rows=with_row(world, index, replace(row, state=State.AMBIGUOUS)))
        return
    ended = ledger.ended | {row.attempt} if rules.withdraw_leaves_a_tombstone else ledger.ended
    given_up = world.given_up | {row.attempt}
    yield changed(world, rows=ready(world, index), ledger=replace(ledger, ended=ended), given_up=given_up)


def restores(world: World, rules: Rules) -> Iterator[World]:
    if not world.ledger.knows_all:
        # Every armed attempt that is not void is reported again as authorized, and what was void as void.
        sent = (State.ARMED, State.AMBIGUOUS, State.ACCEPTED)
        attempts = frozenset(row.attempt for row in world.rows if row.state in sent)
        void = world.ledger.ended | world.given_up
        yield changed(world, ledger=Ledger((world.ledger.authorized | attempts) - void, void))
    if world.restores:
        return
    for rows in world.earlier_rows:
        yield changed(world, rows=rows, restores=1, earlier_rows=frozenset())
    for ledger in world.earlier_ledgers:
        set_back = replace(ledger, knows_all=not rules.a_ledger_set_back_learns_again)
        yield changed(world, ledger=set_back, restores=1, earlier_ledgers=frozenset())


def violation_of(world: World) -> str:
    if world.sends > 1:
        return "sent twice"
    return "unresolved for nothing" if world.ledger.knows_all and world.ledger.authorized & world.given_up else ""


def violations(rules: Rules) -> Iterator[str]:
    """Of every world that can be reached, nearest first; "" for one without."""
    seen, queue = {World()}, deque([World()])
    while queue:
        world = queue.popleft()
        yield violation_of(world)
        for following in successors(world, rules):
            if following not in seen:
                seen.add(following)
                queue.append(following)


@pytest.mark.parametrize("happens", ["rows_are_set_back", "ledger_is_set_back", "batch_is_cut_again"])
def test_nobody_is_sent_to_twice_and_nothing_is_unresolved_for_nothing(happens: str) -> None:
    found = Counter(violations(replace(Rules(), **{happens: True})))
    assert set(found) == {""}
    assert found[""] > 20_000


@pytest.mark.parametrize(
    ("switched_off", "happens", "violation"),
    [
        ("void_leaves_a_tombstone", "", "unresolved for nothing"),
        ("withdraw_leaves_a_tombstone", "", "unresolved for nothing"),
        ("void_is_acknowledged_before_ready", "", "sent twice"),
        ("positions_are_authorized_once", "rows_are_set_back", "sent twice"),
        ("positions_are_authorized_once", "batch_is_cut_again", "sent twice"),
        ("nobody_sends_after_its_time", "", "sent twice"),
        ("attempts_are_drawn_at_random", "rows_are_set_back", "sent twice"),
        ("a_ledger_set_back_learns_again", "ledger_is_set_back", "sent twice"),
    ],
)
def test_each_rule_is_needed(switched_off: str, happens: str, violation: str) -> None:
    rules = replace(Rules(), **{switched_off: False}, **({happens: True} if happens else {}))
    assert violation in violations(rules)
