"""Provider responses: what is kept of them, and whether one of them gave a message id out."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.batch_outcomes import StoredResponse
from bulksms_dispatcher.domain.batches import BatchKey
from bulksms_dispatcher.domain.recipients import pack_ids, unpack_ids

__all__ = ["gave_out", "read_recent_ids", "save"]

_RESPONSES_AT_ONCE = 20

# A late response takes the place of what was kept of the early one.
_SAVE = text("""
    INSERT INTO provider_responses (batch_id, tenant_id, epoch, http_status, bulk_id, first_message_id, message_ids,
                                    body)
    VALUES (:batch_id, :tenant_id, :epoch, :http_status, :bulk_id, :first_message_id, :message_ids, :body)
    ON CONFLICT (batch_id, tenant_id, epoch) DO UPDATE
    SET http_status = excluded.http_status, bulk_id = excluded.bulk_id, first_message_id = excluded.first_message_id,
        message_ids = excluded.message_ids, body = excluded.body, received_at = clock_timestamp()
""")
# The responses of the time in question, few of which are about this number; only theirs are searched.
_GAVE_OUT = text("""
    SELECT EXISTS (
        SELECT 1 FROM provider_responses r JOIN batches b ON b.batch_id = r.batch_id AND b.tenant_id = r.tenant_id
        WHERE r.received_at >= CAST(:earliest AS timestamptz)
          AND CAST(:phone AS bigint) BETWEEN b.first_phone AND b.last_phone
          AND position(convert_to(CAST(:id AS text), 'UTF8') IN coalesce(r.message_ids, ''::bytea)) > 0)
""")

_RECENT_IDS = text("""
    SELECT message_ids FROM provider_responses
    WHERE received_at >= clock_timestamp() - make_interval(secs => :within_seconds) AND message_ids IS NOT NULL
    ORDER BY received_at DESC
""").execution_options(yield_per=_RESPONSES_AT_ONCE)


async def save(connection: AsyncConnection, batch: BatchKey, response: StoredResponse) -> None:
    """Keep it. Raises IntegrityError when its bulk id or first message id was given to another batch."""
    ids = response.message_ids
    parameters = {
        "http_status": response.http_status,
        "bulk_id": response.bulk_id or None,
        "first_message_id": ids[0] if ids else None,
        "message_ids": pack_ids(ids) if ids else None,
        "body": response.body or None,
    }
    await connection.execute(_SAVE, batch.parameters() | parameters)


async def gave_out(connection: AsyncConnection, message_id: str, phone: int, earliest: datetime) -> bool:
    """True when a stored response has this id: then it proves nothing about any other batch."""
    parameters = {"id": message_id, "phone": phone, "earliest": earliest}
    return bool((await connection.execute(_GAVE_OUT, parameters)).scalar_one())


async def read_recent_ids(connection: AsyncConnection, within: timedelta, enough: int) -> list[list[str]]:
    """The ids of the latest responses, newest first, until there are enough of them; a few responses at a time."""
    responses: list[list[str]] = []
    found = 0
    async with connection.stream(_RECENT_IDS, {"within_seconds": within.total_seconds()}) as rows:
        async for row in rows:
            responses.append(unpack_ids(row.message_ids))
            found += len(responses[-1])
            if found >= enough:
                break
    return responses
