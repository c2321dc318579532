"""Resolution plans: which ambiguous batches a selection means, and the plans that wait to be carried out."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.batches import BatchKey
from bulksms_dispatcher.domain.evidence import EvidenceState
from bulksms_dispatcher.domain.protocol import BatchState
from bulksms_dispatcher.domain.resolution_plans import BatchSelection, Resolution, ResolutionPlan, SelectedBatch

__all__ = ["find", "find_selected", "read_now", "save", "select"]

# Its last attempt is the one that counts. A report is of the batch's window until it has proved something: one that the
# provider was not asked about yet may be of any.
_SELECTED = f"""
    SELECT b.seq, b.batch_id, b.tenant_id, b.epoch, b.recipients, b.evidenced,
           coalesce(a.armed_at, b.updated_at) AS attempted_at,
           EXISTS (
               SELECT 1 FROM evidence e
               WHERE e.state = {EvidenceState.OPEN}
                 AND (e.provider_created_at IS NULL
                      OR (e.provider_phone BETWEEN b.first_phone AND b.last_phone
                          AND e.provider_created_at
                              BETWEEN coalesce(a.armed_at, b.updated_at) - make_interval(secs => :window_seconds)
                              AND coalesce(a.armed_at, b.updated_at) + make_interval(secs => :window_seconds)))
           ) AS is_evidence_open
    FROM batches b
    LEFT JOIN attempts a ON a.batch_id = b.batch_id AND a.tenant_id = b.tenant_id AND a.number = b.attempts
    WHERE b.state = {BatchState.AMBIGUOUS}
"""
_SELECT = text(f"""
    {_SELECTED}
      AND (:tenant_id = '' OR b.tenant_id = :tenant_id)
      AND (CAST(:campaign_id AS uuid) IS NULL OR b.campaign_id = :campaign_id)
      AND (CAST(:armed_from AS timestamptz) IS NULL OR coalesce(a.armed_at, b.updated_at) >= :armed_from)
      AND (CAST(:armed_until AS timestamptz) IS NULL OR coalesce(a.armed_at, b.updated_at) < :armed_until)
      AND (:reason = '' OR b.reason = :reason)
      AND (:http_status = 0 OR a.http_status = :http_status)
    ORDER BY b.seq LIMIT :limit
""")
_FIND_SELECTED = text(f"""
    {_SELECTED} AND b.batch_id = :batch_id AND b.tenant_id = :tenant_id AND b.epoch = :epoch
""")
_NOW = text("SELECT clock_timestamp()")
_SAVE = text("""
    INSERT INTO resolution_plans (token, resolution, tenant_ids, batch_ids, epochs)
    VALUES (:token, :resolution, :tenant_ids, :batch_ids, :epochs)
""")
_FORGET = text("DELETE FROM resolution_plans WHERE created_at < now() - make_interval(secs => :seconds)")
_FIND = text("""
    SELECT token, resolution, tenant_ids, batch_ids, epochs FROM resolution_plans
    WHERE token = :token AND created_at >= now() - make_interval(secs => :seconds)
""")


async def select(
    connection: AsyncConnection, selection: BatchSelection, *, evidence_window: timedelta, limit: int
) -> list[SelectedBatch]:
    """The ambiguous batches that a selection means, oldest first."""
    parameters = {
        "tenant_id": selection.tenant_id,
        "campaign_id": selection.campaign_id,
        "armed_from": selection.armed_from,
        "armed_until": selection.armed_until,
        "reason": selection.reason,
        "http_status": selection.http_status,
        "window_seconds": evidence_window.total_seconds(),
        "limit": limit,
    }
    return [_selected(row) for row in await connection.execute(_SELECT, parameters)]


async def find_selected(
    connection: AsyncConnection, batch: BatchKey, *, evidence_window: timedelta
) -> SelectedBatch | None:
    """One of them as it is now; None when it is not ambiguous under this epoch any more."""
    parameters = batch.parameters() | {"window_seconds": evidence_window.total_seconds()}
    row = (await connection.execute(_FIND_SELECTED, parameters)).one_or_none()
    return None if row is None else _selected(row)


async def read_now(connection: AsyncConnection) -> datetime:
    """The database's clock, by which attempts are dated."""
    now: datetime = (await connection.execute(_NOW)).scalar_one()
    return now


async def save(connection: AsyncConnection, plan: ResolutionPlan, *, lasts: timedelta) -> None:
    """Keep a plan to be carried out; older ones are forgotten."""
    await connection.execute(_FORGET, {"seconds": lasts.total_seconds()})
    parameters = {
        "token": plan.token,
        "resolution": plan.resolution.name,
        "tenant_ids": [batch.tenant_id for batch in plan.batches],
        "batch_ids": [batch.batch_id for batch in plan.batches],
        "epochs": [batch.epoch for batch in plan.batches],
    }
    await connection.execute(_SAVE, parameters)


async def find(connection: AsyncConnection, token: UUID, *, lasts: timedelta) -> ResolutionPlan | None:
    """Read a plan; None when there is none of this token, or it is too old."""
    row = (await connection.execute(_FIND, {"token": token, "seconds": lasts.total_seconds()})).one_or_none()
    if row is None:
        return None
    keys: Sequence[BatchKey] = [BatchKey(*key) for key in zip(row.tenant_ids, row.batch_ids, row.epochs, strict=True)]
    return ResolutionPlan(row.token, Resolution[row.resolution], keys)


def _selected(row: Row[Any]) -> SelectedBatch:
    key = BatchKey(row.tenant_id, row.batch_id, row.epoch)
    return SelectedBatch(key, row.recipients, row.evidenced, row.attempted_at, row.is_evidence_open)
