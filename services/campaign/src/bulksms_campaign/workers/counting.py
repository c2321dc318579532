"""Counting: composed audiences whose cached size is out of date are counted anew before somebody enqueues them."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from bulksms_campaign.storage.audience_sizes import follow_size, list_stale
from bulksms_campaign.storage.tasks import Task
from bulksms_campaign.use_cases.counting import count_audience
from servicekit import logs
from servicekit.database import Database

_log = logs.get_logger("bulksms.campaign.counting")


class Counting:
    """Work of TaskKind.COUNT; one task per tenant, so that no tenant's audiences take more than one connection."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def work(self, task: Task) -> timedelta | None:
        """Count what is stale now; an import that makes it stale again asks again."""
        async with self._database.connect() as connection:
            stale = await list_stale(connection, task.tenant_id)
        for audience in stale:
            try:
                # Committed first: what changes while it is being counted must find that it is to be followed.
                await self._database.run_raw_transaction(
                    partial(follow_size, tenant_id=task.tenant_id, audience=audience)
                )
                await count_audience(self._database, task.tenant_id, audience)
            except TimeoutError:
                _log.warning("an audience was not counted ahead: its enqueue will", tenant_id=task.tenant_id)
        return None
