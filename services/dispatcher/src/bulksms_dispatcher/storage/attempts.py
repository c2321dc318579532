"""Attempts: one row for each time a batch was armed, or failed before it could be."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.batch_outcomes import AttemptResult
from bulksms_dispatcher.domain.batches import Attempt, BatchKey

__all__ = ["add_unarmed", "end", "end_open", "list_all"]

_END = text("""
    UPDATE attempts
    SET ended_at = clock_timestamp(), outcome = :outcome, reason = :reason, http_status = :http_status,
        accepted = :accepted
    WHERE batch_id = :batch_id AND tenant_id = :tenant_id AND number = :number AND epoch = :epoch
""")
# Before arming, too, an attempt is an attempt: its connection failed.
_ADD_UNARMED = text("""
    WITH counted AS (
        UPDATE batches SET attempts = attempts + 1
        WHERE batch_id = :batch_id AND tenant_id = :tenant_id RETURNING attempts
    )
    INSERT INTO attempts (batch_id, tenant_id, number, epoch, worker, ended_at, outcome, reason)
    SELECT :batch_id, :tenant_id, attempts, :epoch, :worker, clock_timestamp(), :outcome, :reason FROM counted
""")
# A worker that cannot know whether its arm was committed, and has sent nothing, takes the attempt back with the batch.
_END_OPEN = text("""
    UPDATE attempts SET ended_at = clock_timestamp(), outcome = 'NOT_SENT', reason = 'NOT_ARMED'
    WHERE batch_id = :batch_id AND tenant_id = :tenant_id AND epoch = :epoch AND ended_at IS NULL
""")
_LIST = text("""
    SELECT number, epoch, worker, armed_at, ended_at, outcome, reason, http_status FROM attempts
    WHERE batch_id = :batch_id ORDER BY number
""")


async def end(connection: AsyncConnection, batch: BatchKey, number: int, result: AttemptResult, accepted: int) -> None:
    """Write what an armed attempt came to."""
    parameters = {
        "number": number,
        "outcome": result.outcome.value,
        "reason": result.reason,
        "http_status": result.http_status,
        "accepted": accepted,
    }
    await connection.execute(_END, batch.parameters() | parameters)


async def add_unarmed(connection: AsyncConnection, batch: BatchKey, result: AttemptResult) -> None:
    """Write one that ended before it was armed."""
    parameters = {"outcome": result.outcome.value, "reason": result.reason, "worker": result.worker}
    await connection.execute(_ADD_UNARMED, batch.parameters() | parameters)


async def end_open(connection: AsyncConnection, batch: BatchKey) -> None:
    """End the one that may have been armed: nothing was sent."""
    await connection.execute(_END_OPEN, batch.parameters())


async def list_all(connection: AsyncConnection, batch_id: UUID) -> list[Attempt]:
    """A batch's attempts, oldest first."""
    rows = await connection.execute(_LIST, {"batch_id": batch_id})
    return [Attempt(**row._asdict()) for row in rows]
