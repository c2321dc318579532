"""Late batches: what could not go out in time fails, so that nobody waits for it and its credits go back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from bulksms_dispatcher.metrics import Metrics
from bulksms_dispatcher.storage.late_batches import OUTAGE, TOO_LATE, fail_late, fail_stranded
from servicekit import logs
from servicekit.database import Database

__all__ = ["LateBatches"]

_AT_ONCE = 500
_log = logs.get_logger("bulksms.dispatcher.late_batches")


class LateBatches:
    """Looks for READY batches past their `not_after`, or stranded in an outage. Any number may run at once."""

    def __init__(
        self,
        database: Database,
        metrics: Metrics,
        on_failed: Callable[[], None],
        *,
        traffic_account_id: str,
        outage_patience: timedelta,
    ) -> None:
        self._database = database
        self._metrics = metrics
        self._on_failed = on_failed
        self._account = traffic_account_id
        self._patience = outage_patience

    async def fail_once(self) -> bool:
        """One round of the worker; True when there may be more."""
        async with self._database.begin() as connection:
            late = await fail_late(connection, _AT_ONCE)
        async with self._database.begin() as connection:
            stranded = await fail_stranded(connection, self._account, self._patience, _AT_ONCE)
        for failed, reason in ((late, TOO_LATE), (stranded, OUTAGE)):
            if failed:
                self._metrics.dead.add(failed, {"reason": reason})
                _log.warning("batches failed: not sent in time", batches=failed, reason=reason)
                self._on_failed()
        return _AT_ONCE in (late, stranded)
