"""Campaign rows: made, read, locked, changed under their lock."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import RowMapping, Select, delete, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.audiences import Audience
from bulksms_campaign.domain.campaigns import Campaign, CampaignContent, CampaignPriority, CampaignState, MessageClass
from bulksms_campaign.storage.tables import campaign_counters, campaigns


class LockedCampaign(NamedTuple):
    """A campaign that is nobody else's to change until the transaction ends, and the transaction's instant."""

    campaign: Campaign
    now: datetime


async def insert_campaign(
    connection: AsyncConnection,
    tenant_id: str,
    campaign_id: UUID,
    external_id: str,
    content: CampaignContent,
    now: datetime,
) -> LockedCampaign | None:
    """A new DRAFT with its counters; None when another campaign has its external id."""
    inserted = await connection.execute(
        insert(campaigns)
        .values(
            campaign_id=campaign_id,
            tenant_id=tenant_id,
            external_id=external_id or None,
            state=CampaignState.DRAFT,
            revision=1,
            created_at=now,
            updated_at=now,
            enqueue_number=0,
            traceparent="",
            **_content_values(content),
        )
        .on_conflict_do_nothing(
            index_elements=[campaigns.c.tenant_id, campaigns.c.external_id],
            index_where=campaigns.c.external_id.is_not(None),
        )
        .returning(campaigns)
    )
    row = inserted.mappings().one_or_none()
    if row is None:
        return None
    campaign = campaign_from(row)
    await connection.execute(insert(campaign_counters).values(tenant_id=tenant_id, campaign_id=campaign_id))
    return LockedCampaign(campaign, now)


async def read_campaign(connection: AsyncConnection, tenant_id: str, campaign_id: UUID) -> Campaign | None:
    """One campaign of a tenant."""
    row = (await connection.execute(_of_tenant(tenant_id, campaign_id))).mappings().one_or_none()
    return None if row is None else campaign_from(row)


async def find_campaign_id(connection: AsyncConnection, tenant_id: str, external_id: str) -> UUID | None:
    """The campaign with the caller's own id."""
    query = select(campaigns.c.campaign_id).where(
        campaigns.c.tenant_id == tenant_id, campaigns.c.external_id == external_id
    )
    return (await connection.execute(query)).scalar_one_or_none()


async def read_campaign_now(
    connection: AsyncConnection, tenant_id: str, campaign_id: UUID
) -> tuple[Campaign, datetime] | None:
    """The same with the instant of the transaction, whose first statement this is."""
    row = (await connection.execute(_with_instant(tenant_id, campaign_id))).mappings().one_or_none()
    return None if row is None else (campaign_from(row), row["now"])


async def lock_campaign(connection: AsyncConnection, tenant_id: str, campaign_id: UUID) -> LockedCampaign | None:
    """One campaign of a tenant, locked; a transaction's first statement."""
    query = _with_instant(tenant_id, campaign_id).with_for_update()
    row = (await connection.execute(query)).mappings().one_or_none()
    return None if row is None else LockedCampaign(campaign_from(row), row["now"])


async def list_campaigns(
    connection: AsyncConnection,
    tenant_id: str,
    state: CampaignState | None,
    after: tuple[datetime, UUID] | None,
    limit: int,
) -> list[Campaign]:
    """A page of a tenant's campaigns, newest first."""
    query = select(campaigns).where(campaigns.c.tenant_id == tenant_id)
    if state is not None:
        query = query.where(campaigns.c.state == state)
    if after is not None:
        query = query.where(tuple_(campaigns.c.created_at, campaigns.c.campaign_id) < after)
    query = query.order_by(campaigns.c.created_at.desc(), campaigns.c.campaign_id.desc()).limit(limit)
    return [campaign_from(row) for row in (await connection.execute(query)).mappings()]


async def change_campaign(connection: AsyncConnection, locked: LockedCampaign, **values: Any) -> Campaign:
    """Change a campaign that is locked by this transaction; every change makes a new revision."""
    campaign, now = locked
    statement = (
        update(campaigns)
        .where(campaigns.c.tenant_id == campaign.tenant_id, campaigns.c.campaign_id == campaign.campaign_id)
        .values(updated_at=now, revision=campaigns.c.revision + 1, **values)
        .returning(campaigns)
    )
    return campaign_from((await connection.execute(statement)).mappings().one())


async def change_content(connection: AsyncConnection, locked: LockedCampaign, content: CampaignContent) -> Campaign:
    """Replace what the caller wrote."""
    return await change_campaign(connection, locked, **_content_values(content))


async def delete_campaign(connection: AsyncConnection, tenant_id: str, campaign_id: UUID) -> None:
    """Delete a campaign with its counters and events."""
    await connection.execute(
        delete(campaigns).where(campaigns.c.tenant_id == tenant_id, campaigns.c.campaign_id == campaign_id)
    )


def campaign_from(row: RowMapping) -> Campaign:
    """The campaign of a whole row, read by SQLAlchemy or by asyncpg."""
    return Campaign(
        campaign_id=row["campaign_id"],
        tenant_id=row["tenant_id"],
        external_id=row["external_id"] or "",
        content=CampaignContent(
            name=row["name"],
            text=row["text"],
            sender=row["sender"],
            audience=Audience(row["all_contacts"], tuple(row["groups"]), tuple(row["exclude_groups"])),
            priority=CampaignPriority(row["priority"]),
            message_class=MessageClass(row["message_class"]),
        ),
        state=CampaignState(row["state"]),
        revision=row["revision"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        scheduled_at=row["scheduled_at"],
        enqueued_at=row["enqueued_at"],
        ended_at=row["ended_at"],
        enqueue_number=row["enqueue_number"],
        reservation_id=row["reservation_id"],
        traceparent=row["traceparent"],
        snapshot_at=row["snapshot_at"],
        submitted_at=row["submitted_at"],
    )


def _of_tenant(tenant_id: str, campaign_id: UUID) -> Select[Any]:
    return select(campaigns).where(campaigns.c.tenant_id == tenant_id, campaigns.c.campaign_id == campaign_id)


def _with_instant(tenant_id: str, campaign_id: UUID) -> Select[Any]:
    return _of_tenant(tenant_id, campaign_id).add_columns(func.clock_timestamp().label("now"))


def _content_values(content: CampaignContent) -> Mapping[str, Any]:
    return {
        "name": content.name,
        "text": content.text,
        "sender": content.sender,
        "all_contacts": content.audience.all_contacts,
        "groups": list(content.audience.groups),
        "exclude_groups": list(content.audience.exclude_groups),
        "priority": content.priority,
        "message_class": content.message_class,
    }
