"""Control of campaigns: pause, resume and cancel what the queue has of them."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

from bulksms_dispatcher.domain.protocol import BatchState
from bulksms_dispatcher.storage import campaigns, take_backs
from bulksms_dispatcher.storage.campaigns import Cancellation
from servicekit.database import Database

__all__ = ["CampaignControl"]


class CampaignControl:
    """Every call may be repeated."""

    def __init__(self, database: Database, notify: Callable[[], None]) -> None:
        self._database = database
        self._notify = notify

    async def pause(self, tenant_id: str, campaign_id: UUID) -> int:
        """Nothing of the campaign is claimed or armed from now on; how many batches were armed before, and go out."""
        async with self._database.begin() as connection:
            await campaigns.set_paused(connection, tenant_id, campaign_id, paused=True)
            await take_backs.of_campaign(connection, tenant_id, campaign_id)
        # Counted after the commit: whoever armed before it is seen.
        async with self._database.connect() as connection:
            return await campaigns.count_batches(connection, tenant_id, campaign_id, BatchState.ARMED)

    async def resume(self, tenant_id: str, campaign_id: UUID) -> int:
        """Claims succeed again; how many batches wait for one."""
        async with self._database.begin() as connection:
            await campaigns.set_paused(connection, tenant_id, campaign_id, paused=False)
            ready = await campaigns.count_batches(connection, tenant_id, campaign_id, BatchState.READY)
        self._notify()
        return ready

    async def cancel(self, tenant_id: str, campaign_id: UUID) -> Cancellation:
        """Cancel for good all that is not armed (rule 7)."""
        async with self._database.begin() as connection:
            cancelled = await campaigns.cancel(connection, tenant_id, campaign_id)
        self._notify()
        return cancelled
