"""Retention: the queue's table keeps what is needed, and a time longer."""

from __future__ import annotations

from datetime import timedelta

from bulksms_dispatcher.storage import retention
from servicekit import logs
from servicekit.database import Database

__all__ = ["Retention"]

_AT_ONCE = 200
_log = logs.get_logger("bulksms.dispatcher.retention")


class Retention:
    """Deletes a few at a time, so that nothing else waits for it; any number may run at once."""

    def __init__(self, database: Database, age: timedelta) -> None:
        self._database = database
        self._age = age

    async def delete_once(self) -> bool:
        """One round of the worker; True when there may be more."""
        async with self._database.begin() as connection:
            deleted = await retention.delete_batches(connection, self._age, _AT_ONCE)
            if not deleted:
                await retention.delete_evidence(connection, self._age)
        if deleted:
            _log.info("old batches deleted", batches=deleted)
        return deleted == _AT_ONCE
