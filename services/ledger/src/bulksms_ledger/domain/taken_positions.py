"""Taken positions: who holds which positions of one reservation, found without looking at every attempt."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable

from bulksms_ledger.domain.positions import Positions

_Held = tuple[int, int, int]  # first, the one behind the last, the attempt id's number


class TakenPositions:
    """Disjoint ranges in order, each held by one attempt."""

    def __init__(self) -> None:
        self._held: list[_Held] = []

    def take(self, attempt: int, taken: Positions) -> None:
        """The attempt holds these positions, which nobody else does."""
        for first, end in taken:
            insort(self._held, (first, end, attempt))

    def give_back(self, attempt: int, taken: Positions) -> None:
        """The attempt, which holds exactly these ranges, holds none of them any more."""
        for first, end in taken:
            index = bisect_left(self._held, (first, end, attempt))
            if self._held[index : index + 1] == [(first, end, attempt)]:
                del self._held[index]

    def holders(self, asked: Positions) -> Iterable[int]:
        """The attempts that hold any of these positions."""
        found: dict[int, None] = {}
        for first, end in asked:
            index = bisect_right(self._held, (end,))  # the first that begins at the end or behind it
            while index and self._held[index - 1][1] > first:
                index -= 1
                found[self._held[index][2]] = None
        return found
