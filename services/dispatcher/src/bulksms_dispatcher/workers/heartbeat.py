"""The heartbeat: a row that says this process is alive, gone when it stops."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from bulksms_dispatcher.storage import workers
from servicekit.database import Database
from servicekit.worker import PeriodicWorker

__all__ = ["Heartbeat"]

_INTERVAL = timedelta(seconds=5)
_FAREWELL_SECONDS = 2.0


class Heartbeat(PeriodicWorker):
    """A component; the queue's figures count those whose last beat is younger than 15 seconds."""

    def __init__(self, database: Database, worker: str) -> None:
        super().__init__("bulksms.dispatcher.heartbeat", _INTERVAL, self._beat)
        self._database = database
        self._worker = worker

    async def stop(self) -> None:
        """Say goodbye, if the database listens."""
        await super().stop()
        try:
            async with asyncio.timeout(_FAREWELL_SECONDS), self._database.begin() as connection:
                await workers.remove(connection, self._worker)
        except TimeoutError:
            pass

    async def _beat(self) -> None:
        async with self._database.begin() as connection:
            await workers.beat(connection, self._worker)
