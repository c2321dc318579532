"""Signals: who commits work notifies this process's workers, which look for it at once; other replicas poll."""

from __future__ import annotations

from collections.abc import Callable


class Signal:
    """Says that there may be work of one kind."""

    def __init__(self) -> None:
        self._listeners: list[Callable[[], None]] = []

    def listen(self, listener: Callable[[], None]) -> None:
        """Have `listener` called at every notification."""
        self._listeners.append(listener)

    def notify(self) -> None:
        """There is something to do."""
        for listener in self._listeners:
            listener()


class Signals:
    """One signal per kind of work."""

    def __init__(self) -> None:
        self.launch = Signal()
        self.control = Signal()
        self.close_reservation = Signal()
        self.deliver_opt_outs = Signal()
        self.count = Signal()
        self.complete = Signal()
