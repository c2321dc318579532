"""The outbox at work: one worker for each publisher, and a last round before the process ends."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from bulksms_dispatcher.domain.outbox import OutboxKind
from bulksms_dispatcher.workers.publisher import Publisher
from servicekit import logs
from servicekit.lifecycle import Component, closing
from servicekit.worker import PeriodicWorker

__all__ = ["Outbox"]

_POLL = timedelta(seconds=1)
# One round delivers all that was recorded meanwhile: it has six round trips to the database, however little it does.
_LINGER = timedelta(milliseconds=50)
_FLUSH_SECONDS = 3.0

_log = logs.get_logger("bulksms.dispatcher.outbox")


class Outbox:
    """Entries are delivered when notified of, when due again, and when the process stops."""

    def __init__(self, publishers: Sequence[Publisher]) -> None:
        self._publishers = publishers
        self._workers = {
            publisher.kind: PeriodicWorker(publisher.name, _POLL, publisher.deliver_once, linger=_LINGER)
            for publisher in publishers
        }

    @property
    def components(self) -> Sequence[Component]:
        """What delivers; the last one flushes when the workers before it have stopped."""
        return [*self._workers.values(), closing("outbox flush", self._flush)]

    def notify(self, *kinds: OutboxKind) -> None:
        """There is something to deliver of these kinds; of any when none is named."""
        for kind in kinds or self._workers:
            self._workers[kind].notify()

    async def _flush(self) -> None:
        """What was recorded last is delivered at once, if the others listen."""
        try:
            async with asyncio.timeout(_FLUSH_SECONDS):
                for publisher in self._publishers:
                    while await publisher.deliver_once():
                        pass
        except TimeoutError:
            _log.warning("outbox not flushed: another process, or the next start, delivers it")
