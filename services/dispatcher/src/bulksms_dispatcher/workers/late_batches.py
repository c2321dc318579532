"""Late batches: what could not go out in time fails, so that nobody waits for it and its credits go back."""

from __future__ import annotations

from collections.abc import Callable

from bulksms_dispatcher.storage.late_batches import fail_late
from servicekit import logs
from servicekit.database import Database

__all__ = ["LateBatches"]

_AT_ONCE = 500
_log = logs.get_logger("bulksms.dispatcher.late_batches")


class LateBatches:
    """Looks for READY batches whose `not_after` has passed. Any number may run at once."""

    def __init__(self, database: Database, on_failed: Callable[[], None]) -> None:
        self._database = database
        self._on_failed = on_failed

    async def fail_once(self) -> bool:
        """One round of the worker; True when there may be more."""
        async with self._database.begin() as connection:
            failed = await fail_late(connection, _AT_ONCE)
        if failed:
            self._on_failed()
            _log.warning("batches failed: not sent in time", batches=failed)
        return failed == _AT_ONCE
