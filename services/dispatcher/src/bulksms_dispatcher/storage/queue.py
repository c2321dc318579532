"""The operators' view: depth, pages of batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.batches import BatchRecord
from bulksms_dispatcher.domain.protocol import LIVE, BatchState
from bulksms_dispatcher.storage.stops import is_batch_stopped

__all__ = [
    "Depth",
    "Figures",
    "find_batch",
    "list_batches",
    "list_dead",
    "read_depth",
    "read_figures",
]


@dataclass(frozen=True, slots=True)
class Depth:
    """Batches of one state and priority."""

    state: BatchState
    priority: int
    batches: int
    recipients: int


@dataclass(frozen=True, slots=True)
class Figures:
    """The queue's other figures."""

    oldest_ready_seconds: float | None
    """None when no batch may be claimed now."""
    accepted_per_second: float
    workers_alive: int
    outbox_pending: int
    outbox_oldest_seconds: float


_LIVE = ", ".join(str(int(state)) for state in sorted(LIVE))
# What an operator or a campaign's owner holds is not written into a million rows: it is looked up where it is shown.
_COLUMNS = f"""b.seq, b.batch_id, b.tenant_id, b.campaign_id, b.submission_id, b.number, b.recipients, b.state,
              b.priority, b.epoch, b.attempts, b.not_before, b.bulk_id, b.created_at, b.updated_at,
              CASE WHEN b.state IN ({BatchState.LEASED}, {BatchState.ARMED}) THEN ''
                   WHEN b.state <> {BatchState.READY} THEN b.reason
                   WHEN {is_batch_stopped("b")} THEN 'STOPPED'
                   WHEN EXISTS (SELECT 1 FROM campaigns c WHERE c.campaign_id = b.campaign_id
                                AND c.tenant_id = b.tenant_id AND c.paused) THEN 'CAMPAIGN_PAUSED'
                   ELSE b.reason END AS reason"""
_DEPTH = text(f"""
    SELECT state, priority, count(*) AS batches, sum(recipients)::bigint AS recipients FROM batches
    WHERE state IN ({_LIVE}) AND (:tenant_id = '' OR tenant_id = :tenant_id)
    GROUP BY state, priority ORDER BY state, priority
""")
_FIGURES = text(f"""
    SELECT
        (SELECT extract(epoch FROM clock_timestamp() - min(b.not_before)) FROM batches b
         LEFT JOIN campaigns c ON c.campaign_id = b.campaign_id AND c.tenant_id = b.tenant_id
         WHERE b.state = {BatchState.READY} AND b.not_before <= now()
           AND (:tenant_id = '' OR b.tenant_id = :tenant_id)
           AND NOT coalesce(c.paused OR c.cancelled, false)
           AND NOT {is_batch_stopped("b")})::double precision,
        (SELECT coalesce(sum(a.accepted), 0) / 60.0 FROM attempts a
         WHERE a.accepted > 0 AND a.ended_at > now() - interval '60 seconds')::double precision,
        (SELECT count(*) FROM workers WHERE seen_at > now() - interval '15 seconds'),
        (SELECT count(*) FROM outbox),
        coalesce((SELECT extract(epoch FROM clock_timestamp() - min(created_at)) FROM outbox
                  WHERE refused_reason = ''), 0)::double precision
""")
_LIST = text(f"""
    SELECT {_COLUMNS} FROM batches b
    WHERE (:tenant_id = '' OR b.tenant_id = :tenant_id)
      AND (CAST(:campaign_id AS uuid) IS NULL OR b.campaign_id = :campaign_id)
      AND (:state = 0 OR b.state = :state)
      AND (:before = 0 OR b.seq < :before)
    ORDER BY b.seq DESC LIMIT :limit
""")
_LIST_DEAD = text(f"""
    SELECT {_COLUMNS} FROM batches b
    WHERE b.state = {BatchState.DEAD} AND (:tenant_id = '' OR b.tenant_id = :tenant_id)
      AND (:before = 0 OR b.seq < :before)
    ORDER BY b.seq DESC LIMIT :limit
""")
_FIND = text(f"SELECT {_COLUMNS} FROM batches b WHERE b.batch_id = :batch_id")


async def read_depth(connection: AsyncConnection, tenant_id: str) -> list[Depth]:
    """How many batches that are not final are where; all tenants when none is named."""
    rows = await connection.execute(_DEPTH, {"tenant_id": tenant_id})
    return [Depth(BatchState(row.state), row.priority, row.batches, row.recipients) for row in rows]


async def read_figures(connection: AsyncConnection, tenant_id: str, account: str) -> Figures:
    """Age, rate, workers and outbox."""
    parameters = {"tenant_id": tenant_id, "account": account}
    return Figures(*(await connection.execute(_FIGURES, parameters)).one())


async def list_batches(
    connection: AsyncConnection,
    *,
    tenant_id: str,
    campaign_id: UUID | None,
    state: int,
    before: int,
    limit: int,
    account: str,
) -> list[BatchRecord]:
    """Batches below the sequence number `before` (0: from the newest), newest first."""
    parameters = {
        "tenant_id": tenant_id,
        "campaign_id": campaign_id,
        "state": state,
        "before": before,
        "limit": limit,
        "account": account,
    }
    return _records((await connection.execute(_LIST, parameters)).all())


async def list_dead(
    connection: AsyncConnection, *, tenant_id: str, before: int, limit: int, account: str
) -> list[BatchRecord]:
    """The same for those that ran out of attempts."""
    parameters = {"tenant_id": tenant_id, "before": before, "limit": limit, "account": account}
    return _records((await connection.execute(_LIST_DEAD, parameters)).all())


async def find_batch(connection: AsyncConnection, batch_id: UUID, account: str) -> BatchRecord | None:
    """Read one batch; `account` is the traffic account that sends: a READY one says what holds it."""
    records = _records((await connection.execute(_FIND, {"batch_id": batch_id, "account": account})).all())
    return records[0] if records else None


def _records(rows: Sequence[Row[Any]]) -> list[BatchRecord]:
    records = []
    for row in rows:
        fields = row._asdict()
        fields["state"] = BatchState(fields["state"])
        records.append(BatchRecord(**fields))
    return records
