"""Message ids that were given lately: an id that comes twice proves that responses were mixed up."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

__all__ = ["KnownIds"]


class KnownIds:
    """The ids of the latest responses, at most about `capacity` of them (64-bit hashes: some 4 MB at the default).

    Those of other replicas are among them as of this one's start; later ones, and older ones, are caught by bulk id and
    first id in the database.
    """

    def __init__(self, capacity: int = 50_000) -> None:
        self.capacity = capacity
        self._hashes: set[int] = set()
        self._responses: deque[tuple[int, ...]] = deque()

    def includes_any(self, message_ids: Sequence[str]) -> bool:
        """True when one of them was added before."""
        return not self._hashes.isdisjoint(map(hash, message_ids))

    def add(self, message_ids: Sequence[str]) -> None:
        """Remember the ids of a response that was believed."""
        hashes = tuple(map(hash, message_ids))
        self._responses.append(hashes)
        self._hashes.update(hashes)
        while len(self._hashes) > self.capacity and len(self._responses) > 1:
            self._hashes.difference_update(self._responses.popleft())
