"""Bells: who commits work rings, and this process's workers look for it at once; other replicas poll."""

from __future__ import annotations

from collections.abc import Callable


class Bell:
    """Rings at everyone who listens."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[], None]] = []

    def listen(self, wake: Callable[[], None]) -> None:
        """Have `wake` called at every ring."""
        self._listeners.append(wake)

    def ring(self) -> None:
        """There is something to do."""
        for wake in self._listeners:
            wake()


class Bells:
    """One bell per kind of work."""

    def __init__(self) -> None:
        self.launch = Bell()
        self.control = Bell()
        self.settle = Bell()
        self.suppress = Bell()
        self.count = Bell()
        self.complete = Bell()
