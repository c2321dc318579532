"""Enqueue rows: read, and marked as far as their launch has got; `enqueue_statements` makes them."""

from __future__ import annotations

from datetime import date, datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, RowMapping, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.campaigns import CampaignState
from bulksms_campaign.domain.enqueues import EnqueueKey, EnqueueRecord
from bulksms_campaign.storage.tables import campaigns, enqueues


class ResultTarget(NamedTuple):
    """What a batch's result is recorded under; there may be no such enqueue."""

    state: CampaignState
    launched_on: date | None
    now: datetime
    """The instant of the transaction whose first statement this was."""


async def read_enqueue(
    connection: AsyncConnection, tenant_id: str, campaign_id: UUID, enqueue_number: int
) -> EnqueueRecord | None:
    """One enqueue of a campaign."""
    query = select(enqueues).where(*_key(tenant_id, campaign_id), enqueues.c.enqueue_number == enqueue_number)
    row = (await connection.execute(query)).mappings().one_or_none()
    return None if row is None else enqueue_from(row)


async def read_result_target(
    connection: AsyncConnection, tenant_id: str, campaign_id: UUID, enqueue_number: int
) -> ResultTarget | None:
    """Where the results of an enqueue's batches go; None when there is no such campaign."""
    day = select(enqueues.c.launched_on).where(
        *_key(tenant_id, campaign_id), enqueues.c.enqueue_number == enqueue_number
    )
    query = select(campaigns.c.state, day.scalar_subquery(), func.clock_timestamp()).where(
        campaigns.c.tenant_id == tenant_id, campaigns.c.campaign_id == campaign_id
    )
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else ResultTarget(CampaignState(row[0]), row[1], row[2])


async def read_accepted_units(
    connection: AsyncConnection, tenant_id: str, campaign_id: UUID, enqueue_number: int
) -> int:
    """Credits of what the provider accepted of one enqueue."""
    query = select(enqueues.c.accepted_units).where(
        *_key(tenant_id, campaign_id), enqueues.c.enqueue_number == enqueue_number
    )
    units: int = (await connection.execute(query)).scalar_one()
    return units


async def mark_snapshot(
    connection: AsyncConnection, key: EnqueueKey, recipients: int, digest: bytes, now: datetime
) -> None:
    """The snapshot is taken: so many recipients are queued; the digest says who stands where."""
    await connection.execute(
        update(enqueues)
        .where(*_key(key.tenant_id, key.campaign_id), enqueues.c.enqueue_number == key.number)
        .values(
            snapshot_at=now,
            snapshot_digest=digest,
            total=recipients,
            queued=recipients,
            changed_at=now,
            earlier_at=now,
            later_at=now,
        )
    )


async def mark_submitted(connection: AsyncConnection, key: EnqueueKey, now: datetime) -> None:
    """The dispatcher has all of it."""
    await connection.execute(
        update(enqueues)
        .where(*_key(key.tenant_id, key.campaign_id), enqueues.c.enqueue_number == key.number)
        .values(submitted_at=now)
    )


def enqueue_from(row: RowMapping) -> EnqueueRecord:
    """The enqueue of a row that has its columns."""
    return EnqueueRecord(
        key=EnqueueKey(row["tenant_id"], row["campaign_id"], row["enqueue_number"], row["launched_on"]),
        reservation_id=row["reservation_id"],
        enqueued_at=row["enqueued_at"],
        traceparent=row["traceparent"],
        snapshot_at=row["snapshot_at"],
        snapshot_digest=row["snapshot_digest"],
        submitted_at=row["submitted_at"],
    )


def _key(tenant_id: str, campaign_id: UUID) -> tuple[ColumnElement[bool], ...]:
    return enqueues.c.tenant_id == tenant_id, enqueues.c.campaign_id == campaign_id
