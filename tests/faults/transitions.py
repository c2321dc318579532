"""What batches really did: a trigger in the dispatcher's database notes every change of state, and whose it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from bulksms.dispatcher.v1 import queue_pb2
from devstack import sql

ARMED = queue_pb2.BATCH_STATE_ARMED
AMBIGUOUS = queue_pb2.BATCH_STATE_AMBIGUOUS

# Written in the transaction that moves the batch: what is in it happened, what is not did not.
_INSTALL = (
    """
    CREATE TABLE observed_transitions (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        batch_id uuid NOT NULL, epoch bigint NOT NULL, origin integer NOT NULL, target integer NOT NULL,
        worker text NOT NULL, reason text NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp())
    """,
    """
    CREATE FUNCTION observe_transition() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        INSERT INTO observed_transitions (batch_id, epoch, origin, target, worker, reason)
        VALUES (OLD.batch_id, OLD.epoch, OLD.state, NEW.state, coalesce(nullif(OLD.worker, ''), NEW.worker),
                NEW.reason);
        RETURN NULL;
    END $$
    """,
    """
    CREATE TRIGGER observe_transition AFTER UPDATE ON batches FOR EACH ROW
    WHEN (OLD.state IS DISTINCT FROM NEW.state) EXECUTE FUNCTION observe_transition()
    """,
)
_READ = """
    SELECT batch_id::text, epoch, origin, target, worker, reason, at FROM observed_transitions WHERE id > $1 ORDER BY id
"""
_LATEST = "SELECT coalesce(max(id), 0) FROM observed_transitions"
_ENDS = "SELECT batch_id::text, epoch, reason FROM attempts"

_STATES = "SELECT state::int, reason, count(*), sum(recipients) FROM batches GROUP BY 1, 2 ORDER BY 1, 2"

Attempt = tuple[str, int]
"""A batch under one epoch: it is armed once at most."""


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of state; `worker` is whose lease the batch was under before or, without one, is now."""

    batch_id: str
    epoch: int
    origin: int
    target: int
    worker: str
    reason: str
    at: datetime

    @property
    def attempt(self) -> Attempt:
        """Which attempt it belongs to."""
        return self.batch_id, self.epoch


class TransitionLog:
    """The transitions from now on; `begin_again` forgets those there were."""

    def __init__(self, database_url: str) -> None:
        self._url = database_url
        self._after = 0
        sql.execute(database_url, _INSTALL)

    def begin_again(self) -> None:
        """Leave out what has happened so far."""
        ((self._after,),) = sql.fetch(self._url, _LATEST)

    def read(self) -> list[Transition]:
        """All of them, in order."""
        return [Transition(*row) for row in sql.fetch(self._url, _READ, self._after)]

    def states(self) -> list[tuple[int, str, int, int]]:
        """Batches and their recipients by state and reason, of all tests so far."""
        return sql.fetch(self._url, _STATES)

    def endings(self, attempts: Iterable[Attempt]) -> Counter[str]:
        """What attempts came to in the end, by the reason kept with each (empty: the provider's own response)."""
        wanted = set(attempts)
        return Counter(reason for batch_id, epoch, reason in sql.fetch(self._url, _ENDS) if (batch_id, epoch) in wanted)


def ambiguous(transitions: Iterable[Transition]) -> dict[Attempt, str]:
    """The attempts that were ever ambiguous → why."""
    return {one.attempt: one.reason for one in transitions if one.target == AMBIGUOUS}


def armed_by(
    transitions: Iterable[Transition], pid: int | None, struck_at: datetime, back_at: datetime
) -> set[Attempt]:
    """What a process (None: all together) had armed when it was struck.

    A commit that was on its way when the process was struck counts: until `back_at` the process cannot begin another.
    """
    armed: set[Attempt] = set()
    for one in transitions:
        if one.target == ARMED and pid in {None, _pid(one.worker)} and one.at < back_at:
            armed.add(one.attempt)
        elif one.origin == ARMED and one.at < struck_at:
            armed.discard(one.attempt)
    return armed


def _pid(worker: str) -> int:
    """A worker's name is host-pid-number."""
    return int(worker.rsplit("-", 2)[1]) if worker else 0
