"""Republishing: results are reported once more to a campaign service whose database was set back."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from uuid import UUID

from bulksms_dispatcher.storage import operator_actions, outbox
from bulksms_dispatcher.storage.operator_actions import OperatorAction
from servicekit import errors, logs
from servicekit.database import Database

__all__ = ["Republishing"]

_KIND = "REPUBLISH"
_log = logs.get_logger("bulksms.dispatcher.republishing")


class Republishing:
    """Asked for by an operator, done and written down once in one transaction."""

    def __init__(self, database: Database, notify: Callable[[], None]) -> None:
        self._database = database
        self._notify = notify

    async def republish(self, request_id: UUID, since: datetime, reason: str, operator: str) -> int | None:
        """How many results are reported again; None when this request id had asked for it before."""
        subject = f"campaign results since {since.isoformat()}"
        async with self._database.begin() as connection:
            before = await operator_actions.find(connection, request_id)
            if before is not None and (before.kind, before.subject) != (_KIND, subject):
                raise errors.already_exists(
                    "REQUEST_ID_REUSED", "This request id was used for something else: use a new one."
                )
            if before is not None:
                return None
            action = OperatorAction(request_id, _KIND, reason, operator, subject=subject)
            await operator_actions.save(connection, action)
            results = await outbox.republish(connection, since)
        _log.warning("results are reported again", results=results, since=since.isoformat())
        self._notify()
        return results
