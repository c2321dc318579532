"""The outbox: results that others must receive, kept until they have acknowledged them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.outbox import OutboxEntry, OutboxKind
from bulksms_dispatcher.domain.protocol import BatchState
from servicekit.bulk import execute_long

__all__ = [
    "acknowledge",
    "count_pending",
    "give_up_capture",
    "postpone",
    "release",
    "republish",
    "take",
    "take_with_recipients",
]


# Taking is hiding: who dies while delivering leaves the entry to be taken again after `hide`.
_TAKE = """
    WITH due AS (
        SELECT outbox_id FROM outbox WHERE kind = ANY(:kinds) AND next_attempt_at <= now()
        ORDER BY next_attempt_at, outbox_id LIMIT :limit FOR UPDATE SKIP LOCKED
    ), taken AS (
        UPDATE outbox o
        SET next_attempt_at = clock_timestamp() + make_interval(secs => :hide_seconds), attempts = o.attempts + 1,
            publisher = :publisher
        FROM due WHERE o.outbox_id = due.outbox_id RETURNING o.*
    )
    SELECT taken.outbox_id, taken.kind, taken.batch_id, taken.epoch, taken.attempt_id, taken.state, taken.attempts,
           taken.accepted, taken.accepted_indexes, taken.released, taken.parts,
           coalesce(r.bulk_id, '') AS bulk_id, b.traceparent, b.tenant_id, b.campaign_id,
           s.reservation_id, s.enqueue_number, taken.part, b.first_phone, b.last_phone {more}
    FROM taken
    JOIN batches b ON b.batch_id = taken.batch_id AND b.tenant_id = taken.tenant_id
    JOIN submissions s ON s.submission_id = b.submission_id AND s.tenant_id = b.tenant_id
    LEFT JOIN provider_responses r
        ON r.batch_id = taken.batch_id AND r.tenant_id = taken.tenant_id AND r.epoch = taken.epoch
    ORDER BY taken.outbox_id
"""
_TAKE_PLAIN = text(_TAKE.format(more=""))
_WITH_RECIPIENTS = ", taken.groups, b.packed, coalesce(taken.message_ids, r.message_ids) AS message_ids"
_TAKE_WITH_RECIPIENTS = text(_TAKE.format(more=_WITH_RECIPIENTS))
# Results for the campaign service are kept until their batch is deleted: its database may be set back.
_ACKNOWLEDGE = text(f"""
    WITH acknowledged AS (DELETE FROM outbox WHERE outbox_id = ANY(:ids) RETURNING *)
    INSERT INTO delivered_results (batch_id, tenant_id, outbox_id, entry)
    SELECT batch_id, tenant_id, outbox_id, to_jsonb(acknowledged) FROM acknowledged WHERE kind = {OutboxKind.CAMPAIGN}
""")
# Whole rows, so that a column of the outbox needs no other here.
_REPUBLISH = """
    WITH again AS (DELETE FROM delivered_results WHERE delivered_at >= $1 RETURNING entry)
    INSERT INTO outbox OVERRIDING SYSTEM VALUE
    SELECT (jsonb_populate_record(CAST(NULL AS outbox), entry || jsonb_build_object(
        'next_attempt_at', clock_timestamp(), 'attempts', 0, 'publisher', '', 'refused_reason', ''))).*
    FROM again ON CONFLICT DO NOTHING
"""
REPUBLISH_LIMIT = timedelta(minutes=5)
_POSTPONE = text("""
    UPDATE outbox
    SET next_attempt_at = clock_timestamp() + make_interval(secs => :delay_seconds),
        refused_reason = :refused_reason, publisher = ''
    WHERE outbox_id = ANY(:ids)
""")
_RELEASE = text(
    "UPDATE outbox SET next_attempt_at = now(), publisher = '' WHERE kind = ANY(:kinds) AND publisher = :publisher"
)
_GIVE_UP = text("""
    WITH given_up AS (
        DELETE FROM outbox WHERE outbox_id = ANY(:ids) RETURNING batch_id, tenant_id, epoch, part, accepted
    )
    INSERT INTO uncaptured_credits (batch_id, tenant_id, epoch, part, units, reason)
    SELECT batch_id, tenant_id, epoch, part, accepted, :reason FROM given_up
    ON CONFLICT DO NOTHING
""")
_COUNT = text("SELECT count(*) FROM outbox")


async def take(
    connection: AsyncConnection, kinds: Sequence[OutboxKind], limit: int, hide: timedelta, publisher: str
) -> list[OutboxEntry]:
    """Up to `limit` due entries, hidden from everybody else for a while."""
    return await _take(connection, _TAKE_PLAIN, kinds, limit, hide, publisher)


async def take_with_recipients(
    connection: AsyncConnection, kinds: Sequence[OutboxKind], limit: int, hide: timedelta, publisher: str
) -> list[OutboxEntry]:
    """The same with groups, numbers and message ids: up to half a megabyte each."""
    return await _take(connection, _TAKE_WITH_RECIPIENTS, kinds, limit, hide, publisher)


async def release(connection: AsyncConnection, kinds: Sequence[OutboxKind], publisher: str) -> None:
    """Show again at once what this process took, when it cannot know what became of it."""
    await connection.execute(_RELEASE, {"kinds": [int(kind) for kind in kinds], "publisher": publisher})


async def acknowledge(connection: AsyncConnection, outbox_ids: Sequence[int]) -> None:
    """Deliver it no more; results for the campaign service are kept."""
    await connection.execute(_ACKNOWLEDGE, {"ids": list(outbox_ids)})


async def republish(connection: AsyncConnection, since: datetime) -> int:
    """Make due again what the campaign service has acknowledged since then; returns how many results."""
    return await execute_long(connection, _REPUBLISH, since, limit=REPUBLISH_LIMIT)


async def postpone(
    connection: AsyncConnection, outbox_ids: Sequence[int], delay: timedelta, refused_reason: str = ""
) -> None:
    """Try again later; `refused_reason` is that of a refusal that repeating will hardly change."""
    parameters = {"ids": list(outbox_ids), "delay_seconds": delay.total_seconds(), "refused_reason": refused_reason}
    await connection.execute(_POSTPONE, parameters)


async def give_up_capture(connection: AsyncConnection, outbox_ids: Sequence[int], reason: str) -> None:
    """Move captures that can never be made to where they are kept for accounting."""
    await connection.execute(_GIVE_UP, {"ids": list(outbox_ids), "reason": reason})


async def count_pending(connection: AsyncConnection) -> int:
    """Entries not acknowledged yet."""
    return int((await connection.execute(_COUNT)).scalar_one())


async def _take(
    connection: AsyncConnection,
    statement: TextClause,
    kinds: Sequence[OutboxKind],
    limit: int,
    hide: timedelta,
    publisher: str,
) -> list[OutboxEntry]:
    parameters = {
        "kinds": [int(kind) for kind in kinds],
        "limit": limit,
        "hide_seconds": hide.total_seconds(),
        "publisher": publisher,
    }
    rows = (await connection.execute(statement, parameters)).all()
    return [
        OutboxEntry(**row._asdict() | {"kind": OutboxKind(row.kind), "state": BatchState(row.state)}) for row in rows
    ]
