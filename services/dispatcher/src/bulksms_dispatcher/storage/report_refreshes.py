"""Report refreshes: accepted batches the provider is to be asked about, taken round by round."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.batches import BatchKey
from bulksms_dispatcher.domain.outbox import OutboxKind
from bulksms_dispatcher.domain.report_refreshes import DueRefresh

__all__ = ["add", "advance", "begin_round", "forget", "postpone", "take"]

_ADD = text("INSERT INTO report_refreshes (batch_id, tenant_id) VALUES (:batch_id, :tenant_id) ON CONFLICT DO NOTHING")
# Taking is hiding, as in the outbox. A batch the campaign service has no result of yet is left alone: it would say that
# nothing of it is awaited. Before the first round `due_at` is the moment of acceptance, so that the delay is a setting.
_TAKE = text(f"""
    WITH due AS (
        SELECT r.batch_id, r.tenant_id FROM report_refreshes r
        WHERE r.due_at <= now() AND (r.round > 0 OR r.due_at <= now() - make_interval(secs => :first_seconds))
          AND NOT EXISTS (
              SELECT 1 FROM outbox o
              WHERE o.batch_id = r.batch_id AND o.tenant_id = r.tenant_id AND o.kind = {OutboxKind.CAMPAIGN})
        ORDER BY r.due_at LIMIT :limit FOR UPDATE OF r SKIP LOCKED
    ), taken AS (
        UPDATE report_refreshes r
        SET due_at = clock_timestamp() + make_interval(secs => :hide_seconds), round = greatest(r.round, 1)
        FROM due WHERE r.batch_id = due.batch_id AND r.tenant_id = due.tenant_id RETURNING r.*
    )
    SELECT taken.batch_id, taken.due_at, taken.round, taken.after_phone, b.tenant_id, b.campaign_id, b.submission_id,
           s.enqueue_number, b.first_phone, b.last_phone, b.traceparent
    FROM taken
    JOIN batches b ON b.batch_id = taken.batch_id AND b.tenant_id = taken.tenant_id
    JOIN submissions s ON s.submission_id = b.submission_id AND s.tenant_id = b.tenant_id
""")
_MINE = "WHERE batch_id = :batch_id AND tenant_id = :tenant_id AND due_at = :due_at"
_ADVANCE = text(f"UPDATE report_refreshes SET after_phone = :after_phone, due_at = clock_timestamp() {_MINE}")
_POSTPONE = text(
    f"UPDATE report_refreshes SET due_at = clock_timestamp() + make_interval(secs => :delay_seconds) {_MINE}"
)
# A round that took longer than the gap to the next one does not make the next one follow at once.
_BEGIN_ROUND = text(f"""
    UPDATE report_refreshes
    SET round = :round, after_phone = 0,
        due_at = greatest(accepted_at + make_interval(secs => :offset_seconds),
                          clock_timestamp() + make_interval(secs => :min_gap_seconds))
    {_MINE}
""")
_FORGET = text(f"DELETE FROM report_refreshes {_MINE}")


async def add(connection: AsyncConnection, batch: BatchKey) -> None:
    """The batch was accepted just now."""
    await connection.execute(_ADD, batch.parameters())


async def take(connection: AsyncConnection, limit: int, first_delay: timedelta, hide: timedelta) -> list[DueRefresh]:
    """Up to `limit` due ones, those due longest, hidden from every other replica for a while."""
    parameters = {
        "limit": limit,
        "first_seconds": first_delay.total_seconds(),
        "hide_seconds": hide.total_seconds(),
    }
    return [DueRefresh(**row._asdict()) for row in await connection.execute(_TAKE, parameters)]


async def advance(connection: AsyncConnection, taken: DueRefresh, after_phone: int) -> None:
    """Asked about everyone up to `after_phone`; the rest of the round is due at once."""
    await connection.execute(_ADVANCE, _key(taken) | {"after_phone": after_phone})


async def postpone(connection: AsyncConnection, taken: DueRefresh, delay: timedelta) -> None:
    """The same page again, later."""
    await connection.execute(_POSTPONE, _key(taken) | {"delay_seconds": delay.total_seconds()})


async def begin_round(
    connection: AsyncConnection, taken: DueRefresh, number: int, offset: timedelta, min_gap: timedelta
) -> None:
    """The next round is due `offset` after acceptance, and not before `min_gap` from now."""
    parameters = {"round": number, "offset_seconds": offset.total_seconds(), "min_gap_seconds": min_gap.total_seconds()}
    await connection.execute(_BEGIN_ROUND, _key(taken) | parameters)


async def forget(connection: AsyncConnection, taken: DueRefresh) -> None:
    """Nothing is awaited any more."""
    await connection.execute(_FORGET, _key(taken))


def _key(taken: DueRefresh) -> dict[str, object]:
    return {"batch_id": taken.batch_id, "tenant_id": taken.tenant_id, "due_at": taken.due_at}
