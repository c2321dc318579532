"""Hold rows: what keeps a campaign from being sent, as it was seen last; there is none while nothing does."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.holds import Hold, HoldReason
from bulksms_campaign.storage.tables import campaign_holds


class StoredHold(NamedTuple):
    """A hold, and the reason that the campaign's history tells of last, if it tells of one that has not ended."""

    hold: Hold
    noted: HoldReason | None = None


async def read_hold(connection: AsyncConnection, tenant_id: str, campaign_id: UUID) -> StoredHold | None:
    """What holds a campaign, as it was seen last."""
    row = (await connection.execute(select(campaign_holds).where(*_key(tenant_id, campaign_id)))).one_or_none()
    if row is None:
        return None
    hold = Hold(
        reason=HoldReason(row.reason),
        since=row.since,
        until=row.until,
        batch_reason=row.batch_reason,
        description=row.description,
    )
    return StoredHold(hold, HoldReason(row.noted) if row.noted else None)


async def store_hold(connection: AsyncConnection, tenant_id: str, campaign_id: UUID, stored: StoredHold) -> None:
    """Remember what holds a campaign that is locked by this transaction."""
    hold, noted = stored
    values = {
        "reason": hold.reason,
        "since": hold.since,
        "until": hold.until,
        "batch_reason": hold.batch_reason,
        "description": hold.description,
        "noted": noted,
    }
    await connection.execute(
        insert(campaign_holds)
        .values(tenant_id=tenant_id, campaign_id=campaign_id, **values)
        .on_conflict_do_update(index_elements=[campaign_holds.c.tenant_id, campaign_holds.c.campaign_id], set_=values)
    )


async def delete_hold(connection: AsyncConnection, tenant_id: str, campaign_id: UUID) -> None:
    """Nothing holds it any more."""
    await connection.execute(delete(campaign_holds).where(*_key(tenant_id, campaign_id)))


def _key(tenant_id: str, campaign_id: UUID) -> tuple[ColumnElement[bool], ...]:
    return campaign_holds.c.tenant_id == tenant_id, campaign_holds.c.campaign_id == campaign_id
