"""Patient writes: a transaction is repeated until the database takes it, however often it goes away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import count
from typing import TypeVar
from uuid import UUID

from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from servicekit import logs
from servicekit.backoff import Backoff
from servicekit.database import Database, DatabaseUnavailable

__all__ = ["DATABASE_ERRORS", "PatientWrites"]

T = TypeVar("T")

DATABASE_ERRORS = (SQLAlchemyError, DatabaseUnavailable, OSError, TimeoutError)
"""What a statement can fail with when the database is away, slow or restarted."""

_BACKOFF = Backoff(timedelta(seconds=0.1), longest=timedelta(seconds=2))
_log = logs.get_logger("bulksms.dispatcher.patient_writes")


class PatientWrites:
    """For what is a compare-and-set: repeating one whose reply was lost is harmless."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def write(
        self, body: Callable[[AsyncConnection], Awaitable[T]], batch_id: UUID, patience: timedelta
    ) -> T | None:
        """What `body` returns; None when patience ends first. Raises IntegrityError, which repeating does not cure."""
        give_up_at = time.monotonic() + patience.total_seconds()
        for number in count(1):
            try:
                async with self._database.begin() as connection:
                    return await body(connection)
            except IntegrityError:
                raise
            except DATABASE_ERRORS as error:
                facts = {"batch_id": str(batch_id), "error_type": type(error).__name__}
                if time.monotonic() >= give_up_at:
                    _log.error("outcome not written", **facts)
                    return None
                _log.warning("outcome waits for the database", attempt=number, **facts)
            await asyncio.sleep(_BACKOFF.after(number).total_seconds())
        raise AssertionError("unreachable: the loop returns or raises")
