"""Batch rows: the dispatcher's batches as last reported, for the traces of their delivery reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.attempts import ReportedAttempt
from bulksms_campaign.domain.enqueues import EnqueueKey
from servicekit.bulk import raw


class BatchRow(NamedTuple):
    """A batch of the dispatcher as it was last reported."""

    tenant_id: str
    batch_id: UUID
    campaign_id: UUID
    first_phone: int
    last_phone: int
    epoch: int
    enqueue_number: int
    bulk_id: str
    traceparent: str
    attempt_id: UUID | None = None
    """The attempt it was reported of; None where nothing was armed."""
    unsure_attempt_id: UUID | None = None
    """The last attempt of it that was reported as one that may have sent."""


class TouchedBatch(NamedTuple):
    """A batch that delivery reports were about."""

    batch_id: UUID
    campaign_id: UUID
    bulk_id: str
    traceparent: str
    reports: int


# A later epoch's outcome replaces an earlier one's; the bulk id, once known, stays.
_UPSERT = text("""
    INSERT INTO campaign_batches AS b
        (tenant_id, batch_id, campaign_id, first_phone, last_phone, epoch, enqueue_number, bulk_id, traceparent,
        attempt_id, unsure_attempt_id, recorded_at)
    VALUES (:tenant_id, :batch_id, :campaign_id, :first_phone, :last_phone, :epoch, :enqueue_number, :bulk_id,
        :traceparent, :attempt_id, :unsure_attempt_id, :recorded_at)
    ON CONFLICT (tenant_id, batch_id) DO UPDATE SET
        epoch = excluded.epoch, attempt_id = excluded.attempt_id, unsure_attempt_id = excluded.unsure_attempt_id,
        bulk_id = coalesce(nullif(excluded.bulk_id, ''), b.bulk_id),
        traceparent = coalesce(nullif(excluded.traceparent, ''), b.traceparent), recorded_at = excluded.recorded_at
    WHERE excluded.epoch >= b.epoch
""")

_LOCK = text("""
    SELECT epoch, attempt_id, unsure_attempt_id FROM campaign_batches
    WHERE tenant_id = :tenant_id AND batch_id = :batch_id FOR NO KEY UPDATE
""")

# The batch whose range a phone is in. A batch may be split later, so ranges can overlap: the nearest start wins.
_FIND = """
    SELECT b.batch_id, b.campaign_id, b.bulk_id, b.traceparent, count(*)
    FROM unnest($1::text[], $2::uuid[], $3::integer[], $4::bigint[])
        AS t (tenant_id, campaign_id, enqueue_number, phone)
    CROSS JOIN LATERAL (
        SELECT * FROM campaign_batches b
        WHERE b.tenant_id = t.tenant_id AND b.campaign_id = t.campaign_id AND b.enqueue_number = t.enqueue_number
          AND b.first_phone <= t.phone
        ORDER BY b.first_phone DESC LIMIT 1
    ) b
    WHERE b.last_phone >= t.phone
    GROUP BY 1, 2, 3, 4 LIMIT $5
"""


async def lock_attempt(connection: AsyncConnection, tenant_id: str, batch_id: UUID) -> ReportedAttempt | None:
    """Which attempt of a batch was reported last; nobody else's to change until the transaction ends."""
    row = (await connection.execute(_LOCK, {"tenant_id": tenant_id, "batch_id": batch_id})).one_or_none()
    return None if row is None else ReportedAttempt(*row)


async def upsert_batch(connection: AsyncConnection, batch: BatchRow, now: datetime) -> None:
    """Remember a batch."""
    await connection.execute(_UPSERT, {**batch._asdict(), "recorded_at": now})


async def read_batches_of(
    connection: AsyncConnection, phones: Mapping[EnqueueKey, Sequence[int]], limit: int
) -> list[TouchedBatch]:
    """The batches some recipients were sent in, at most `limit`."""
    driver = await raw(connection)
    rows = [(*key[:3], phone) for key, some in phones.items() for phone in some]
    return [TouchedBatch(*row) for row in await driver.fetch(_FIND, *zip(*rows, strict=True), limit)]
