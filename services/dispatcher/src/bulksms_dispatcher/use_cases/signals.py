"""MessageSignals: who waits for a single message hears in this process when its outcome is recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

__all__ = ["MessageSignals"]


class MessageSignals:
    """One event per message that somebody waits for; another replica may have sent it, so waiters also poll."""

    def __init__(self) -> None:
        self._events: dict[UUID, asyncio.Event] = {}

    @contextmanager
    def awaiting(self, message_id: UUID) -> Iterator[asyncio.Event]:
        """The event that `notify` sets."""
        event = self._events.setdefault(message_id, asyncio.Event())
        try:
            yield event
        finally:
            self._events.pop(message_id, None)

    def notify(self, message_id: UUID) -> None:
        """Its row has changed."""
        event = self._events.get(message_id)
        if event is not None:
            event.set()
