"""Counter rows: moved in the transaction that changes recipients, read for status and progress."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Row, func, select, text, update
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
    UPDATE campaign_counters k SET
        total = total + :total, queued = queued + :queued, sent = sent + :sent, failed = failed + :failed,
        unconfirmed = unconfirmed + :unconfirmed, cancelled = cancelled + :cancelled,
        delivered = delivered + :delivered, accepted = accepted + :accepted, ambiguous = ambiguous + :ambiguous,
        changed_at = t.now,
        earlier_at = CASE WHEN later_at IS NULL THEN t.now WHEN later_at < t.sample_due THEN later_at
                          ELSE earlier_at END,
        earlier_processed = CASE WHEN later_at IS NULL THEN sent + failed
                                 WHEN later_at < t.sample_due THEN later_processed ELSE earlier_processed END,
        later_at = CASE WHEN later_at >= t.sample_due THEN later_at ELSE t.now END,
        later_processed = CASE WHEN later_at >= t.sample_due THEN later_processed ELSE sent + failed END
    FROM (SELECT now, now - make_interval(secs => :sample_seconds) AS sample_due FROM clock_timestamp() AS now) t
    WHERE campaign_id = :campaign_id
    RETURNING {", ".join(COUNTER_NAMES)}
""")


async def move_counters(connection: AsyncConnection, campaign_id: UUID, moved: Counters) -> Counters:
    """Add `moved`, which may be negative, and return the counters as they are then. Locks the row."""
    values: Mapping[str, Any] = {name: getattr(moved, name) for name in COUNTER_NAMES}
    seconds = SAMPLE_EVERY.total_seconds()
    row = (await connection.execute(_MOVE, {"campaign_id": campaign_id, "sample_seconds": seconds, **values})).one()
    return _counters(row)


async def set_counters(connection: AsyncConnection, campaign_id: UUID, counters: Counters) -> None:
    """Replace the counters and forget the samples: at the snapshot; at an enqueue `enqueues` does."""
    values = {name: getattr(counters, name) for name in COUNTER_NAMES}
    await connection.execute(
        update(campaign_counters)
        .where(campaign_counters.c.campaign_id == campaign_id)
        .values(
            **values,
            changed_at=func.clock_timestamp(),
            earlier_at=func.clock_timestamp(),
            earlier_processed=counters.processed,
            later_at=func.clock_timestamp(),
            later_processed=counters.processed,
        )
    )


async def read_counters(connection: AsyncConnection, campaign_ids: list[UUID]) -> dict[UUID, CountersRow]:
    """Counters of some campaigns."""
    query = select(campaign_counters, func.clock_timestamp().label("now")).where(
        campaign_counters.c.campaign_id.in_(campaign_ids)
    )
    return {row.campaign_id: _row(row) for row in await connection.execute(query)}


async def lock_counters(connection: AsyncConnection, campaign_id: UUID) -> Counters:
    """The counters, nobody else's to move until the transaction ends."""
    query = select(campaign_counters).where(campaign_counters.c.campaign_id == campaign_id).with_for_update()
    return _counters((await connection.execute(query)).one())


def _row(row: Row[Any]) -> CountersRow:
    earlier = Sample(row.earlier_at, row.earlier_processed) if row.earlier_at is not None else None
    later = Sample(row.later_at, row.later_processed) if row.later_at is not None else None
    return CountersRow(_counters(row), Progress(earlier, later, row.changed_at), row.now)


def _counters(row: Row[Any]) -> Counters:
    return Counters(*(getattr(row, name) for name in COUNTER_NAMES))
