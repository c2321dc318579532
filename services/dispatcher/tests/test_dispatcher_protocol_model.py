"""The send protocol, every interleaving of it: one batch, two workers, crashes, freezes, lost responses and a cancel;
a pause or an opt-out, evidence, the journal of responses, an operator's resolution and the end of patience.

A model, not the code: it shows that the rules are enough, and that each of them is needed. The rules are switches, and
each one switched off must produce its violation.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum

import pytest

from bulksms_dispatcher.domain.protocol import TRANSITIONS, BatchState

pytestmark = pytest.mark.slow

READY, LEASED, ARMED, ACCEPTED, REJECTED, AMBIGUOUS, UNRESOLVED, CANCELLED = (
    BatchState.READY,
    BatchState.LEASED,
    BatchState.ARMED,
    BatchState.ACCEPTED,
    BatchState.REJECTED,
    BatchState.AMBIGUOUS,
    BatchState.UNRESOLVED,
    BatchState.CANCELLED,
)
MAX_EPOCH = 3


class Step(Enum):
    """Where a worker is."""

    IDLE = 0
    CLAIMED = 1
    ARMED = 2
    SENT = 3
    """The provider has accepted; the worker does not know yet."""
    KNOWS = 4
    """It has read the response."""
    UNSURE = 5
    """The response was lost."""
    REJECTED = 7
    """The provider has rejected it whole, and the worker knows."""
    PERHAPS_ARMED = 6
    """The database did not confirm the arming: nothing is sent, the batch is handed back."""


@dataclass(frozen=True)
class Worker:
    step: Step = Step.IDLE
    epoch: int = 0
    knows: bool = False
    """Of the objection: it was raised before the claim."""
    against: bool = False
    """It was raised before the arm, and the batch was armed all the same."""


@dataclass(frozen=True)
class World:
    """The row, the two workers, and the provider's truth."""

    state: BatchState = READY
    epoch: int = 0
    cancelled: bool = False
    objection: bool = False
    """A pause, or an opt-out: who claims later obeys it (waits, renders without the number), who claimed before does
    not know of it."""
    overruled: bool = False
    """Something was sent that an objection from before its arm forbids."""
    sends: int = 0
    workers: tuple[Worker, Worker] = (Worker(), Worker())
    journal: frozenset[int] = frozenset()
    """Epochs whose acceptance is on a disk; it stays there when its worker crashes."""
    rejections: frozenset[int] = frozenset()
    """The same of rejections (429)."""
    moves: frozenset[tuple[BatchState, BatchState]] = frozenset()


@dataclass(frozen=True)
class Rules:
    """What the protocol demands."""

    arm_before_send: bool = True
    arm_asks_for_objections: bool = True
    epochs: bool = True
    expired_armed_is_ambiguous: bool = True
    no_retry_when_unsure: bool = True
    cancel_spares_armed: bool = True
    evidence_must_match: bool = True
    journal_asks_for_the_epoch: bool = True
    operator_knows_that_nobody_will_send: bool = True
    only_what_was_not_sent_is_taken_back: bool = True


def moved(world: World, to: BatchState, **changes: object) -> World:
    return replace(world, state=to, moves=world.moves | {(world.state, to)}, **changes)  # type: ignore[arg-type]


def successors(world: World, rules: Rules) -> Iterator[World]:
    for index in (0, 1):
        yield from worker_steps(world, index, rules)
    yield from reaper_steps(world, rules)
    yield from resolutions(world, rules)
    if not world.objection:
        yield replace(world, objection=True)
    if not world.cancelled:
        cancellable = (READY, LEASED) if rules.cancel_spares_armed else (READY, LEASED, ARMED)
        after = replace(world, cancelled=True)
        yield moved(after, CANCELLED) if world.state in cancellable else after


def reaper_steps(world: World, rules: Rules) -> Iterator[World]:
    """A lease may run out at any moment: its worker may be dead, frozen, or only slow."""
    back = CANCELLED if world.cancelled else READY
    if world.epoch == MAX_EPOCH:
        return
    if world.state is LEASED:
        yield moved(world, back, epoch=world.epoch + 1)
    if world.state is ARMED:
        if rules.expired_armed_is_ambiguous:
            yield moved(world, AMBIGUOUS)
        else:
            yield moved(world, back, epoch=world.epoch + 1)


def resolutions(world: World, rules: Rules) -> Iterator[World]:
    """What may be learnt of a batch from elsewhere, at any time."""
    if world.epoch in world.journal and world.state in (ARMED, AMBIGUOUS):
        yield moved(world, ACCEPTED)
    rejected = world.epoch in world.rejections or (world.rejections and not rules.journal_asks_for_the_epoch)
    if rejected and world.state is ARMED and world.epoch < MAX_EPOCH:
        yield moved(world, CANCELLED if world.cancelled else READY, epoch=world.epoch + 1)
    if world.state is AMBIGUOUS:
        if world.sends or not rules.evidence_must_match:
            yield moved(world, ACCEPTED)
        yield moved(world, UNRESOLVED)
    # An operator says what is true when he says it.
    if world.state is AMBIGUOUS:
        may_still_send = any(worker.step is Step.ARMED for worker in world.workers)
        if world.sends:
            yield moved(world, ACCEPTED)
        elif not may_still_send or not rules.operator_knows_that_nobody_will_send:
            yield moved(world, REJECTED)


def worker_steps(world: World, index: int, rules: Rules) -> Iterator[World]:
    worker = world.workers[index]
    mine = worker.epoch == world.epoch or not rules.epochs
    if worker.step is Step.IDLE:
        if world.state is READY and not world.cancelled:
            claimed = Worker(Step.CLAIMED, world.epoch, knows=world.objection)
            yield moved(world, LEASED, workers=with_worker(world, index, claimed))
        return
    yield replace(world, workers=at(world, index, Step.IDLE))  # crash, or a compare-and-set that failed
    match worker.step:
        case Step.CLAIMED:
            yield from arming(world, index, rules, mine=mine)
        case Step.ARMED:
            overruled = world.overruled or worker.against
            yield replace(world, workers=at(world, index, Step.SENT), sends=world.sends + 1, overruled=overruled)
            if world.state is ARMED and mine:  # provably not sent (rule 3)
                yield from handed_back(world, index)
            rejections = world.rejections | {worker.epoch}
            yield replace(world, workers=at(world, index, Step.REJECTED), rejections=rejections)
        case Step.REJECTED:
            if world.state is ARMED and mine:
                yield from handed_back(world, index)
        case Step.PERHAPS_ARMED:
            yield from taken_back(world, index, mine=mine)
        case _:
            yield from after_sending(world, index, rules, mine=mine)


def after_sending(world: World, index: int, rules: Rules, *, mine: bool) -> Iterator[World]:
    match world.workers[index].step:
        case Step.SENT:
            journal = world.journal | {world.workers[index].epoch}
            yield replace(world, workers=at(world, index, Step.KNOWS), journal=journal)
            yield replace(world, workers=at(world, index, Step.UNSURE))
        case Step.KNOWS:
            if world.state in (ARMED, AMBIGUOUS) and mine:
                yield moved(world, ACCEPTED, workers=at(world, index, Step.IDLE))
        case Step.UNSURE:
            if world.state is ARMED and mine:
                yield from unsure(world, index, rules)
            if world.state is AMBIGUOUS and not rules.only_what_was_not_sent_is_taken_back:
                yield from taken_back(world, index, mine=mine)


def arming(world: World, index: int, rules: Rules, *, mine: bool) -> Iterator[World]:
    if not rules.arm_before_send:
        yield replace(world, workers=at(world, index, Step.SENT), sends=world.sends + 1)
        return
    yield replace(world, workers=at(world, index, Step.PERHAPS_ARMED))  # it never reached the database
    if world.state is LEASED and mine:
        worker = world.workers[index]
        against = world.objection and not worker.knows
        if against and rules.arm_asks_for_objections:
            yield from handed_back(world, index)
            return
        armed = replace(worker, step=Step.ARMED, against=against)
        yield moved(world, ARMED, workers=with_worker(world, index, armed))
        yield moved(world, ARMED, workers=at(world, index, Step.PERHAPS_ARMED))  # its confirmation was lost


def taken_back(world: World, index: int, *, mine: bool) -> Iterator[World]:
    """By a worker that has sent nothing."""
    if world.state in (LEASED, ARMED) and mine:
        yield from handed_back(world, index)
    if world.state is AMBIGUOUS and mine:  # the reaper was first
        yield moved(world, REJECTED, workers=at(world, index, Step.IDLE))


def handed_back(world: World, index: int) -> Iterator[World]:
    if world.epoch < MAX_EPOCH:
        back = CANCELLED if world.cancelled else READY
        yield moved(world, back, epoch=world.epoch + 1, workers=at(world, index, Step.IDLE))


def unsure(world: World, index: int, rules: Rules) -> Iterator[World]:
    if rules.no_retry_when_unsure:
        yield moved(world, AMBIGUOUS, workers=at(world, index, Step.IDLE))
    else:
        yield from handed_back(world, index)


def at(world: World, index: int, step: Step) -> tuple[Worker, Worker]:
    """The workers with one of them elsewhere."""
    return with_worker(world, index, Worker(step, world.workers[index].epoch))


def with_worker(world: World, index: int, changed: Worker) -> tuple[Worker, Worker]:
    return (changed, world.workers[1]) if index == 0 else (world.workers[0], changed)


def explored(rules: Rules) -> Iterator[World]:
    """Every world that can be reached, each once."""
    seen, border = {World()}, [World()]
    while border:
        world = border.pop()
        yield world
        for following in successors(world, rules):
            if following not in seen:
                seen.add(following)
                border.append(following)


@functools.cache
def reachable() -> frozenset[World]:
    """With all rules in force."""
    return frozenset(explored(Rules()))


def violations(world: World) -> set[str]:
    """What must never be."""
    found = set()
    if world.sends > 1:
        found.add("sent twice")
    if world.overruled:
        found.add("sent against a pause or an opt-out from before the arm")
    if world.sends and world.state in (READY, CANCELLED, REJECTED):
        found.add("sent, and reported as not sent")
    if world.state is ACCEPTED and not world.sends:
        found.add("not sent, and reported as sent")
    return found


def test_no_interleaving_sends_twice_or_tells_a_lie() -> None:
    worlds = reachable()
    assert len(worlds) > 1000
    assert {violation for world in worlds for violation in violations(world)} == set()


def test_every_move_of_the_model_is_one_of_the_protocol_s() -> None:
    moves = {move for world in reachable() for move in world.moves}
    # A batch handed back under a cancelled campaign passes through READY within one transaction.
    direct = {move for move in moves if move != (ARMED, CANCELLED)}
    assert all(target in TRANSITIONS[origin] for origin, target in direct)
    assert CANCELLED in TRANSITIONS[READY]


def test_nothing_gets_stuck() -> None:
    """From everywhere a final state, or AMBIGUOUS, can be reached."""
    resting = (ACCEPTED, REJECTED, AMBIGUOUS, UNRESOLVED, CANCELLED)
    for world in reachable():
        if world.epoch == MAX_EPOCH:
            continue  # the model ends here, the protocol does not
        seen, border, done = {world}, [world], False
        while border and not done:
            current = border.pop()
            done = current.state in resting
            for following in successors(current, Rules()):
                if following not in seen:
                    seen.add(following)
                    border.append(following)
        assert done


@pytest.mark.parametrize(
    ("switched_off", "violation"),
    [
        ("arm_before_send", "sent twice"),
        ("arm_asks_for_objections", "sent against a pause or an opt-out from before the arm"),
        ("epochs", "sent twice"),
        ("expired_armed_is_ambiguous", "sent twice"),
        ("no_retry_when_unsure", "sent twice"),
        ("cancel_spares_armed", "sent, and reported as not sent"),
        ("evidence_must_match", "not sent, and reported as sent"),
        ("journal_asks_for_the_epoch", "sent twice"),
        # A frozen worker that was armed sends when it wakes up: only who knows that it is gone may say "not sent".
        ("operator_knows_that_nobody_will_send", "sent, and reported as not sent"),
        ("only_what_was_not_sent_is_taken_back", "sent, and reported as not sent"),
    ],
)
def test_each_rule_is_needed(switched_off: str, violation: str) -> None:
    rules = replace(Rules(), **{switched_off: False})
    assert any(violation in violations(world) for world in explored(rules))
