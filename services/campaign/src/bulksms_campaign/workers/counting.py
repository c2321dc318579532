"""Counting: composed audiences whose kept size holds no longer are counted anew before somebody enqueues them."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from bulksms_campaign.storage.audience_sizes import follow_size, list_stale
from bulksms_campaign.storage.audiences import size_of_audience
from bulksms_campaign.storage.tasks import Task
from servicekit import logs
from servicekit.database import Database

_log = logs.get_logger("bulksms_campaign.counting")


class Counting:
    """Work of TaskKind.COUNT; one task per tenant, so that no tenant's audiences take more than one connection."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def work(self, task: Task) -> timedelta | None:
        """Count what is stale now; an import that makes it stale again asks again."""
        tenant_id = task.tenant_id
        async with self._database.connect() as connection:
            stale = await list_stale(connection, tenant_id)
        for audience in stale:
            # Committed first: what changes while it is being counted must find that it is to be followed.
            for step in (follow_size, size_of_audience):
                try:
                    await self._database.run_raw_transaction(partial(step, tenant_id=tenant_id, audience=audience))
                except TimeoutError:
                    _log.warning("an audience was not counted ahead: its enqueue will", tenant_id=tenant_id)
        return None
