"""Message ids that were given lately: an id that comes twice proves that responses were mixed up."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from datetime import timedelta

from bulksms_dispatcher.domain.id_times import are_made_between
from servicekit.clock import Clock

__all__ = ["REMEMBERED", "KnownIds"]

REMEMBERED = timedelta(hours=1)
"""For how long ids are remembered over a restart; what is older is known by its time, where ids carry one."""
_CLOCKS_DIFFER = timedelta(minutes=10)


class KnownIds:
    """The ids of the latest responses, at most about `capacity` of them (64-bit hashes: some 4 MB at the default).

    Those of other replicas are among them as of this one's start; later ones, and older ones, are caught by bulk id and
    first id in the database.
    """

    def __init__(self, capacity: int = 50_000, *, clock: Clock | None = None) -> None:
        """`clock` is given where the provider's ids carry their time."""
        self.capacity = capacity
        self._clock = clock
        self._hashes: set[int] = set()
        self._responses: deque[tuple[int, ...]] = deque()

    def includes_any(self, message_ids: Sequence[str]) -> bool:
        """True when one of them was added before."""
        return not self._hashes.isdisjoint(map(hash, message_ids))

    def are_of_another_time(self, message_ids: Sequence[str]) -> bool:
        """True when one of them says that it was not made lately."""
        if self._clock is None:
            return False
        now = self._clock.now()
        return not are_made_between(message_ids, now - REMEMBERED, now + _CLOCKS_DIFFER)

    def add(self, message_ids: Sequence[str]) -> None:
        """Remember the ids of a response that was believed."""
        hashes = tuple(map(hash, message_ids))
        self._responses.append(hashes)
        self._hashes.update(hashes)
        while len(self._hashes) > self.capacity and len(self._responses) > 1:
            self._hashes.difference_update(self._responses.popleft())
