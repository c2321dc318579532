"""Campaign rows: made, read, locked, changed under their lock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import RowMapping, Select, and_, delete, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.audiences import Audience
from bulksms_campaign.domain.campaigns import Campaign, CampaignContent, CampaignPriority, CampaignState, MessageClass
from bulksms_campaign.storage.enqueues import enqueue_from, read_enqueue
from bulksms_campaign.storage.tables import campaigns, enqueues


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
    """A new DRAFT; None when another campaign has its external id."""
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
            **_content_values(content),
        )
        .on_conflict_do_nothing(
            index_elements=[campaigns.c.tenant_id, campaigns.c.external_id],
            index_where=campaigns.c.external_id.is_not(None),
        )
        .returning(campaigns)
    )
    row = inserted.mappings().one_or_none()
    return None if row is None else LockedCampaign(campaign_from(row), now)


async def read_campaign(connection: AsyncConnection, tenant_id: str, campaign_id: UUID) -> Campaign | None:
    """One campaign of a tenant."""
    query = _with_enqueue(tenant_id).where(campaigns.c.campaign_id == campaign_id)
    row = (await connection.execute(query)).mappings().one_or_none()
    return None if row is None else _with_its_enqueue(row)


async def find_campaign_id(connection: AsyncConnection, tenant_id: str, external_id: str) -> UUID | None:
    """The campaign with the caller's own id."""
    query = select(campaigns.c.campaign_id).where(
        campaigns.c.tenant_id == tenant_id, campaigns.c.external_id == external_id
    )
    return (await connection.execute(query)).scalar_one_or_none()


async def lock_campaign(connection: AsyncConnection, tenant_id: str, campaign_id: UUID) -> LockedCampaign | None:
    """One campaign of a tenant, locked; a transaction's first statement.

    Its enqueue is read by a second one, which sees what was committed before the lock was got.
    """
    query = (
        select(campaigns, func.clock_timestamp().label("now"))
        .where(campaigns.c.tenant_id == tenant_id, campaigns.c.campaign_id == campaign_id)
        .with_for_update()
    )
    row = (await connection.execute(query)).mappings().one_or_none()
    if row is None:
        return None
    campaign = campaign_from(row)
    if campaign.enqueue_number:
        enqueue = await read_enqueue(connection, tenant_id, campaign_id, campaign.enqueue_number)
        campaign = replace(campaign, enqueue=enqueue)
    return LockedCampaign(campaign, row["now"])


async def list_campaigns(
    connection: AsyncConnection,
    tenant_id: str,
    state: CampaignState | None,
    after: tuple[datetime, UUID] | None,
    limit: int,
) -> list[Campaign]:
    """A page of a tenant's campaigns, newest first."""
    query = _with_enqueue(tenant_id)
    if state is not None:
        query = query.where(campaigns.c.state == state)
    if after is not None:
        query = query.where(tuple_(campaigns.c.created_at, campaigns.c.campaign_id) < after)
    query = query.order_by(campaigns.c.created_at.desc(), campaigns.c.campaign_id.desc()).limit(limit)
    return [_with_its_enqueue(row) for row in (await connection.execute(query)).mappings()]


async def change_campaign(connection: AsyncConnection, locked: LockedCampaign, **values: Any) -> Campaign:
    """Change columns of a campaign that is locked by this transaction; every change makes a new revision."""
    await _update(connection, locked, values)
    campaign, now = locked
    return replace(campaign, updated_at=now, revision=campaign.revision + 1, **values)


async def change_content(connection: AsyncConnection, locked: LockedCampaign, content: CampaignContent) -> Campaign:
    """Replace what the caller wrote."""
    await _update(connection, locked, _content_values(content))
    campaign, now = locked
    return replace(campaign, updated_at=now, revision=campaign.revision + 1, content=content)


async def delete_campaign(connection: AsyncConnection, tenant_id: str, campaign_id: UUID) -> None:
    """Delete a DRAFT with its events."""
    await connection.execute(
        delete(campaigns).where(campaigns.c.tenant_id == tenant_id, campaigns.c.campaign_id == campaign_id)
    )


def campaign_from(row: RowMapping) -> Campaign:
    """The campaign of a whole row, read by SQLAlchemy or by asyncpg; without its enqueue."""
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
            not_after=row["not_after"],
        ),
        state=CampaignState(row["state"]),
        revision=row["revision"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        scheduled_at=row["scheduled_at"],
        ended_at=row["ended_at"],
        enqueue_number=row["enqueue_number"],
    )


def _with_enqueue(tenant_id: str) -> Select[Any]:
    latest = and_(
        enqueues.c.tenant_id == campaigns.c.tenant_id,
        enqueues.c.campaign_id == campaigns.c.campaign_id,
        enqueues.c.enqueue_number == campaigns.c.enqueue_number,
    )
    of_enqueue = [column for column in enqueues.columns if column.name not in campaigns.columns]
    return (
        select(campaigns, *of_enqueue)
        .select_from(campaigns.outerjoin(enqueues, latest))
        .where(campaigns.c.tenant_id == tenant_id)
    )


def _with_its_enqueue(row: RowMapping) -> Campaign:
    campaign = campaign_from(row)
    return campaign if row["launched_on"] is None else replace(campaign, enqueue=enqueue_from(row))


async def _update(connection: AsyncConnection, locked: LockedCampaign, values: Mapping[str, Any]) -> None:
    campaign, now = locked
    await connection.execute(
        update(campaigns)
        .where(campaigns.c.tenant_id == campaign.tenant_id, campaigns.c.campaign_id == campaign.campaign_id)
        .values(updated_at=now, revision=campaigns.c.revision + 1, **values)
    )


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
        "not_after": content.not_after,
    }
