"""The send protocol's states and moves: what a batch may become, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, IntEnum

__all__ = ["FINAL", "LIVE", "TRANSITIONS", "BatchState", "OutcomeKind", "ProtocolError", "check_transition"]


class BatchState(IntEnum):
    """Where a batch is; the numbers are stored and are those of the proto's BatchState."""

    READY = 1
    LEASED = 2
    ARMED = 3
    ACCEPTED = 4
    REJECTED = 5
    AMBIGUOUS = 6
    UNRESOLVED = 7
    CANCELLED = 8
    DEAD = 9


class OutcomeKind(Enum):
    """What one attempt came to. Only NOT_SENT and REJECTED prove that nothing was accepted."""

    ACCEPTED = "ACCEPTED"
    REJECTED = "REJECTED"
    NOT_SENT = "NOT_SENT"
    AMBIGUOUS = "AMBIGUOUS"


_S = BatchState

TRANSITIONS: Mapping[BatchState, frozenset[BatchState]] = {
    # To DEAD: its time is over (not_after).
    _S.READY: frozenset({_S.LEASED, _S.CANCELLED, _S.DEAD}),
    # To READY: handed back, or the lease ran out.
    _S.LEASED: frozenset({_S.READY, _S.ARMED, _S.CANCELLED}),
    # To READY and DEAD only with proof that nothing was accepted (rule 3); a lost worker leads to AMBIGUOUS (rule 2).
    _S.ARMED: frozenset({_S.ACCEPTED, _S.REJECTED, _S.AMBIGUOUS, _S.READY, _S.DEAD}),
    # Never back to READY: what may have been sent is not sent again (rule 5).
    _S.AMBIGUOUS: frozenset({_S.ACCEPTED, _S.REJECTED, _S.UNRESOLVED}),
    _S.ACCEPTED: frozenset(),
    _S.REJECTED: frozenset(),
    _S.UNRESOLVED: frozenset(),
    _S.CANCELLED: frozenset(),
    # Its recipients were provably not sent; another chance is another enqueue, with recipients' rows of its own.
    _S.DEAD: frozenset(),
}

FINAL = frozenset(state for state, following in TRANSITIONS.items() if not following)

LIVE = frozenset(BatchState) - FINAL
"""States in which a batch waits for something; the queue's figures are about these."""


class ProtocolError(AssertionError):
    """Our own code asked for a move that the protocol does not have."""


def check_transition(origin: BatchState, target: BatchState) -> None:
    """Raise ProtocolError for a move that is not in the table; storage asks before every write."""
    if target not in TRANSITIONS[origin]:
        raise ProtocolError(f"a batch never goes from {origin.name} to {target.name}")
