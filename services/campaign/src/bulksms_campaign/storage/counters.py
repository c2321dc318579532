"""Counter rows: moved in the transaction that changes recipients, read for status and progress."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Row, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.counters import COUNTER_NAMES, Counters
from bulksms_campaign.domain.progress import SAMPLE_EVERY, Progress, Sample
from bulksms_campaign.storage.tables import campaign_counters


class CountersRow(NamedTuple):
    """Counters with the samples their rate is computed from, read at the database's `now`."""

    counters: Counters
    progress: Progress
    now: datetime


# The older sample is replaced once the newer one is old enough, so a rate is over the last two to four seconds.
_MOVE = text(f"""
    UPDATE campaign_counters SET
        total = total + :total, queued = queued + :queued, sent = sent + :sent, failed = failed + :failed,
        unconfirmed = unconfirmed + :unconfirmed, cancelled = cancelled + :cancelled,
        delivered = delivered + :delivered, accepted = accepted + :accepted, ambiguous = ambiguous + :ambiguous,
        changed_at = greatest(changed_at, :now),
        earlier_at = CASE WHEN later_at IS NULL THEN :now WHEN later_at < :sample_due THEN later_at
                          ELSE earlier_at END,
        earlier_processed = CASE WHEN later_at IS NULL THEN sent + failed
                                 WHEN later_at < :sample_due THEN later_processed ELSE earlier_processed END,
        later_at = CASE WHEN later_at >= :sample_due THEN later_at ELSE :now END,
        later_processed = CASE WHEN later_at >= :sample_due THEN later_processed ELSE sent + failed END
    WHERE tenant_id = :tenant_id AND campaign_id = :campaign_id
    RETURNING {", ".join(COUNTER_NAMES)}
""")


async def move_counters(
    connection: AsyncConnection, tenant_id: str, campaign_id: UUID, moved: Counters, now: datetime
) -> Counters:
    """Add `moved`, which may be negative, and return the counters as they are then. Locks the row."""
    values: Mapping[str, Any] = {name: getattr(moved, name) for name in COUNTER_NAMES}
    instants = {"now": now, "sample_due": now - SAMPLE_EVERY}
    key = {"tenant_id": tenant_id, "campaign_id": campaign_id}
    return _counters((await connection.execute(_MOVE, {**key, **instants, **values})).one())


async def set_counters(
    connection: AsyncConnection, tenant_id: str, campaign_id: UUID, counters: Counters, now: datetime
) -> None:
    """Replace the counters and forget the samples: at the snapshot; at an enqueue `enqueues` does."""
    values = {name: getattr(counters, name) for name in COUNTER_NAMES}
    await connection.execute(
        update(campaign_counters)
        .where(*_key(tenant_id, campaign_id))
        .values(
            **values,
            changed_at=now,
            earlier_at=now,
            earlier_processed=counters.processed,
            later_at=now,
            later_processed=counters.processed,
        )
    )


async def read_counters(
    connection: AsyncConnection, tenant_id: str, campaign_ids: list[UUID]
) -> dict[UUID, CountersRow]:
    """Counters of some campaigns of a tenant."""
    query = select(campaign_counters, func.clock_timestamp().label("now")).where(
        campaign_counters.c.tenant_id == tenant_id, campaign_counters.c.campaign_id.in_(campaign_ids)
    )
    return {row.campaign_id: _row(row) for row in await connection.execute(query)}


async def lock_counters(connection: AsyncConnection, tenant_id: str, campaign_id: UUID) -> Counters:
    """The counters, nobody else's to move until the transaction ends."""
    query = select(campaign_counters).where(*_key(tenant_id, campaign_id)).with_for_update()
    return _counters((await connection.execute(query)).one())


def _key(tenant_id: str, campaign_id: UUID) -> tuple[ColumnElement[bool], ...]:
    return campaign_counters.c.tenant_id == tenant_id, campaign_counters.c.campaign_id == campaign_id


def _row(row: Row[Any]) -> CountersRow:
    earlier = Sample(row.earlier_at, row.earlier_processed) if row.earlier_at is not None else None
    later = Sample(row.later_at, row.later_processed) if row.later_at is not None else None
    return CountersRow(_counters(row), Progress(earlier, later, row.changed_at), row.now)


def _counters(row: Row[Any]) -> Counters:
    return Counters(*(getattr(row, name) for name in COUNTER_NAMES))
