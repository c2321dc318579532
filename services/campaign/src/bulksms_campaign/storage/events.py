"""Event rows: what happened to a campaign."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.storage.tables import campaign_events


class EventRow(NamedTuple):
    """One event."""

    sequence: int
    kind: str
    detail: str
    at: datetime


# Numbered without gaps: callers hold the campaign's row lock.
_APPEND = text("""
    INSERT INTO campaign_events (campaign_id, sequence, kind, detail, at)
    SELECT :campaign_id, coalesce(max(sequence), 0) + 1, :kind, :detail, clock_timestamp()
    FROM campaign_events WHERE campaign_id = :campaign_id
""")


async def append_event(connection: AsyncConnection, campaign_id: UUID, kind: str, detail: str) -> None:
    """Write down what happened; the campaign's row must be locked by this transaction."""
    await connection.execute(_APPEND, {"campaign_id": campaign_id, "kind": kind, "detail": detail})


async def list_events(connection: AsyncConnection, campaign_id: UUID, after: int, limit: int) -> list[EventRow]:
    """A page of a campaign's events, oldest first."""
    query = (
        select(campaign_events.c.sequence, campaign_events.c.kind, campaign_events.c.detail, campaign_events.c.at)
        .where(campaign_events.c.campaign_id == campaign_id, campaign_events.c.sequence > after)
        .order_by(campaign_events.c.sequence)
        .limit(limit)
    )
    return [EventRow(*row) for row in await connection.execute(query)]
