"""Positions: which recipients of an enqueue are meant, as ascending ranges that neither overlap nor touch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

Range = tuple[int, int]
"""The first position, and the one behind the last."""

Positions = tuple[Range, ...]

NONE: Final[Positions] = ()
POSITIONS_IN_RESERVATION: Final = 2**27  # so many recipients one enqueue may have; see `authorizations` in the schema


def merge(ranges: Iterable[Range]) -> Positions:
    """What any of these ranges has."""
    merged: list[Range] = []
    for first, end in sorted(ranges):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((first, end))
    return tuple(merged)


def common(one: Positions, other: Positions) -> Positions:
    """What both have."""
    found: list[Range] = []
    index = 0
    for first, end in one:
        while index < len(other) and other[index][1] <= first:
            index += 1
        at = index
        while at < len(other) and other[at][0] < end:
            found.append((max(first, other[at][0]), min(end, other[at][1])))
            at += 1
    return tuple(found)


def without(one: Positions, other: Positions) -> Positions:
    """What the one has and the other has not."""
    if not other:
        return one
    kept: list[Range] = []
    index = 0
    for first, end in one:
        while index < len(other) and other[index][1] <= first:
            index += 1
        at, begin = index, first
        while at < len(other) and other[at][0] < end:
            if begin < other[at][0]:
                kept.append((begin, other[at][0]))
            begin = other[at][1]
            at += 1
        if begin < end:
            kept.append((begin, end))
    return tuple(kept)
