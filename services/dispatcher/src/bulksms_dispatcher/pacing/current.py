"""The limits in force: the settings', with what operators changed, the same in all replicas within a second."""

from __future__ import annotations

from bulksms_dispatcher.domain.rate_limits import Limit, Limits, LimitScope
from bulksms_dispatcher.storage import limits as storage
from servicekit.database import Database

__all__ = ["CurrentLimits"]


class CurrentLimits:
    """Read again and again by a worker; asked at every permit, so the last known ones are kept in memory."""

    def __init__(self, database: Database, defaults: Limits) -> None:
        self._database = database
        self._limits = defaults

    def __call__(self) -> Limits:
        """The last known ones."""
        return self._limits

    async def refresh_once(self) -> None:
        """One round of the worker."""
        await self.read()

    async def read(self) -> Limits:
        """Ask the database."""
        async with self._database.connect() as connection:
            overrides = await storage.read_overrides(connection)
        self._limits = Limits(self._limits.defaults, overrides)
        return self._limits

    async def change(self, scope: LimitScope, key: str, limit: Limit) -> None:
        """Store a change; in force here at once, elsewhere at the next round."""
        async with self._database.begin() as connection:
            await storage.save_override(connection, scope, key, limit)
        await self.read()
