"""Indexes of recipients within their submission as ranges: what the ledger authorizes, and what a batch stores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

__all__ = ["IndexRange", "from_ranges", "to_ranges"]

IndexRange = tuple[int, int]
"""The first and the last index."""


def to_ranges(indexes: Sequence[int]) -> list[IndexRange]:
    """Ascending indexes as ranges that neither meet nor touch."""
    if isinstance(indexes, range) and indexes.step == 1:
        return [(indexes[0], indexes[-1])] if indexes else []
    ranges: list[IndexRange] = []
    first = last = -1
    for index in indexes:
        if index != last + 1 or last < 0:
            if last >= 0:
                ranges.append((first, last))
            first = index
        last = index
    if last >= 0:
        ranges.append((first, last))
    return ranges


def from_ranges(ranges: Iterable[IndexRange]) -> Sequence[int]:
    """The indexes in ascending ranges; a single one costs no memory."""
    spelt_out = [range(first, last + 1) for first, last in ranges]
    return spelt_out[0] if len(spelt_out) == 1 else list(chain.from_iterable(spelt_out))
