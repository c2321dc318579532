"""The limits in force: the settings', with what operators changed, the same in all replicas within a second."""

from __future__ import annotations

from bulksms_dispatcher.domain.rate_limits import Limit, Limits, LimitScope
from bulksms_dispatcher.storage import limits as storage
from servicekit import errors
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

    async def change(self, scope: LimitScope, key: str, limit: Limit, etag: str = "") -> Limit:
        """Store a change; in force here at once, elsewhere at the next round.

        ETAG_MISMATCH, unless `etag` is empty or the limit is as asked for already.
        """
        async with self._database.begin() as connection:
            saved = await storage.save_override(connection, scope, key, limit, etag)
        present = (await self.read()).overrides.get((scope, key), Limit())
        if not saved and not present.allows_as_much_as(limit):
            raise errors.conflict(
                "ETAG_MISMATCH",
                "The limit was changed since it was read: read it again and decide anew.",
                etag=present.etag,
            )
        return present
