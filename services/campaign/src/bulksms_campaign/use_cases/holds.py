"""Holds: what keeps a campaign from being sent is kept for its status, and its history says what lasted."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.campaigns import HOLDABLE
from bulksms_campaign.domain.events import EventKind
from bulksms_campaign.domain.holds import Hold
from bulksms_campaign.storage.campaign_holds import StoredHold, delete_hold, read_hold, store_hold
from bulksms_campaign.storage.campaigns import LockedCampaign, lock_campaign
from bulksms_campaign.storage.events import append_event


async def record_hold(connection: AsyncConnection, tenant_id: str, campaign_id: UUID, hold: Hold | None) -> None:
    """Keep what holds a campaign now, if anything can; tell of what lasts, and of its end."""
    locked = await lock_campaign(connection, tenant_id, campaign_id)
    if locked is None or locked.campaign.state not in HOLDABLE:
        return
    before = await read_hold(connection, tenant_id, campaign_id)
    if hold is not None:
        await _record(connection, locked, hold.following(before.hold if before else None), before)
    elif before is not None:
        if before.noted is not None:
            await append_event(connection, locked, EventKind.HOLD_ENDED, f"{before.noted.name} no more")
        await delete_hold(connection, tenant_id, campaign_id)


async def _record(connection: AsyncConnection, locked: LockedCampaign, hold: Hold, before: StoredHold | None) -> None:
    noted = before.noted if before is not None else None
    if noted is not hold.reason and hold.is_noted(locked.now):
        await append_event(connection, locked, EventKind.HOLD_BEGAN, str(hold))
        noted = hold.reason
    if (stored := StoredHold(hold, noted)) != before:
        await store_hold(connection, locked.campaign.tenant_id, locked.campaign.campaign_id, stored)
