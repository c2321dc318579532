"""Publishers: outbox entries are taken round by round, delivered, and kept until they are acknowledged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.outbox import OutboxEntry, OutboxKind
from bulksms_dispatcher.metrics import Metrics
from bulksms_dispatcher.storage import outbox
from servicekit import logs
from servicekit.backoff import Backoff
from servicekit.database import Database
from servicekit.errors import DomainError

__all__ = ["HIDE", "Acknowledgements", "Publisher"]

_ENTRIES_AT_ONCE = 200
# Hidden from other replicas for longer than a call can take, its retries included.
HIDE = timedelta(seconds=30)
_BACKOFF = Backoff(timedelta(seconds=0.25), longest=timedelta(seconds=15))
# Refused for good, as far as we can know: kept, reported each time, and tried again in case a person mended it.
_REFUSED_DELAY = timedelta(minutes=10)

_log = logs.get_logger("bulksms.dispatcher.publisher")


class Acknowledgements:
    """What all publishers do with an entry after its call."""

    def __init__(self, database: Database, metrics: Metrics) -> None:
        self._database = database
        self._metrics = metrics

    async def acknowledged(self, entries: Sequence[OutboxEntry]) -> None:
        async with self._database.autocommit() as connection:
            await outbox.acknowledge(connection, [entry.outbox_id for entry in entries])
        self._metrics.outbox_acknowledged.add(len(entries), {"kind": entries[0].kind.name})

    async def failed(self, entries: Sequence[OutboxEntry], error: DomainError) -> None:
        if error.retryable or error.category.rpc_code in ("UNIMPLEMENTED", "INTERNAL"):
            await self._again(entries, error)
        else:
            await self.refused(entries, error.reason)

    async def refused(self, entries: Sequence[OutboxEntry], reason: str) -> None:
        self._metrics.outbox_refused.add(len(entries), {"kind": entries[0].kind.name, "reason": reason})
        for entry in entries:
            _log.error("result refused and kept", kind=entry.kind.name, batch_id=str(entry.batch_id), reason=reason)
        async with self._database.begin() as connection:
            await outbox.postpone(connection, [e.outbox_id for e in entries], _REFUSED_DELAY, reason)

    async def uncaptured(self, entries: Sequence[OutboxEntry], reason: str) -> None:
        """It can never be captured: kept in a table of its own, for accounting, and never tried again."""
        async with self._database.begin() as connection:
            await outbox.give_up_capture(connection, [entry.outbox_id for entry in entries], reason)
        self._metrics.uncaptured.add(sum(entry.accepted for entry in entries), {"reason": reason})
        for entry in entries:
            _log.error(
                "messages sent whose credits were given back",
                batch_id=str(entry.batch_id),
                units=entry.accepted,
                reason=reason,
            )

    async def _again(self, entries: Sequence[OutboxEntry], error: DomainError) -> None:
        attempts = min(entry.attempts for entry in entries)
        delay = _BACKOFF.after(attempts + 1)
        _log.warning(
            "result not delivered yet",
            kind=entries[0].kind.name,
            entries=len(entries),
            attempts=attempts,
            reason=error.reason,
        )
        async with self._database.begin() as connection:
            await outbox.postpone(connection, [entry.outbox_id for entry in entries], delay)


class Publisher(ABC):
    """Takes entries of one kind round by round. What a broken round took is shown again at the start of the next one.

    Without that, every lost connection would leave results undelivered until they are no longer hidden.
    """

    kind: OutboxKind
    name: str
    """Of the worker that calls `deliver_once`."""

    def __init__(self, database: Database, metrics: Metrics, worker: str) -> None:
        self._database = database
        self.acknowledgements = Acknowledgements(database, metrics)
        self.worker = worker
        self._broken = False

    async def deliver_once(self) -> bool:
        """One round; True when there may be more."""
        try:
            async with self._database.begin() as connection:
                if self._broken:
                    await outbox.release(connection, [self.kind], self.worker)
                entries = await self.take(connection)
            self._broken = False
            await self.deliver(entries)
        except BaseException:
            self._broken = True
            raise
        return bool(entries)

    async def take(self, connection: AsyncConnection) -> list[OutboxEntry]:
        """What this round is about."""
        return await outbox.take(connection, [self.kind], _ENTRIES_AT_ONCE, HIDE, self.worker)

    @abstractmethod
    async def deliver(self, entries: list[OutboxEntry]) -> None:
        """Deliver them."""
