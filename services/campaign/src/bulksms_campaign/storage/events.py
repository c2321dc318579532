"""Event rows: what happened to a campaign."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.events import EventKind
from bulksms_campaign.storage.campaigns import LockedCampaign
from bulksms_campaign.storage.tables import campaign_events


class EventRow(NamedTuple):
    """One event."""

    sequence: int
    kind: EventKind
    detail: str
    at: datetime


# Numbered without gaps: callers have locked the campaign's row.
_APPEND = text("""
    INSERT INTO campaign_events (tenant_id, campaign_id, sequence, kind, detail, at)
    SELECT :tenant_id, :campaign_id, coalesce(max(sequence), 0) + 1, :kind, :detail, :at
    FROM campaign_events WHERE tenant_id = :tenant_id AND campaign_id = :campaign_id
""")


async def append_event(connection: AsyncConnection, locked: LockedCampaign, kind: EventKind, detail: str) -> None:
    """Write down what happened to a campaign that is locked by this transaction."""
    campaign, now = locked
    key = {"tenant_id": campaign.tenant_id, "campaign_id": campaign.campaign_id}
    await connection.execute(_APPEND, {**key, "kind": kind, "detail": detail, "at": now})


async def list_events(
    connection: AsyncConnection, tenant_id: str, campaign_id: UUID, after: int, limit: int
) -> list[EventRow]:
    """A page of a campaign's events, oldest first."""
    query = (
        select(campaign_events.c.sequence, campaign_events.c.kind, campaign_events.c.detail, campaign_events.c.at)
        .where(
            campaign_events.c.tenant_id == tenant_id,
            campaign_events.c.campaign_id == campaign_id,
            campaign_events.c.sequence > after,
        )
        .order_by(campaign_events.c.sequence)
        .limit(limit)
    )
    return [EventRow(row[0], EventKind(row[1]), *row[2:]) for row in await connection.execute(query)]
