"""Evidence: the reports for message ids nobody knows, and whom they were found to be of."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.batches import BatchKey
from bulksms_dispatcher.domain.evidence import FINAL_STATUSES, EvidenceState, OpenReport
from bulksms_dispatcher.domain.messages import DeliveryEvidence, MessageStatus
from bulksms_dispatcher.domain.provider_records import ProviderRecord

__all__ = [
    "assign",
    "count_open",
    "find_indistinguishable",
    "give_up",
    "is_named",
    "note",
    "postpone",
    "read_ids",
    "save_provider_record",
    "take_open",
]


_COUNT_OPEN = text(f"SELECT count(*) FROM evidence WHERE state = {EvidenceState.OPEN}")
_NOTE = text(f"""
    INSERT INTO evidence AS e (provider_message_id, raw_status, status)
    SELECT * FROM unnest(CAST(:ids AS text[]), CAST(:raw AS text[]), CAST(:statuses AS smallint[])) AS r ORDER BY 1
    ON CONFLICT (provider_message_id) DO UPDATE SET raw_status = excluded.raw_status, status = excluded.status
    WHERE e.state = {EvidenceState.OPEN} AND NOT e.status = ANY (:final) AND excluded.status = ANY (:final)
    RETURNING xmax = 0 AS is_new
""")
# Taking is hiding: who dies in the middle leaves it to be taken again.
_TAKE = text(f"""
    WITH due AS (
        SELECT provider_message_id FROM evidence
        WHERE state = {EvidenceState.OPEN} AND next_attempt_at <= now()
        ORDER BY next_attempt_at LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    UPDATE evidence e
    SET attempts = attempts + 1, next_attempt_at = clock_timestamp() + make_interval(secs => :hide_seconds)
    FROM due WHERE e.provider_message_id = due.provider_message_id
    RETURNING e.provider_message_id, e.attempts, e.provider_phone, e.provider_texts, e.provider_created_at,
              e.provider_sender
""")
_POSTPONE = text(f"""
    UPDATE evidence SET reason = :reason, next_attempt_at = clock_timestamp() + make_interval(secs => :delay_seconds)
    WHERE provider_message_id = :id AND state = {EvidenceState.OPEN}
""")
_GIVE_UP = text(f"""
    UPDATE evidence SET state = {EvidenceState.UNMATCHED}, reason = :reason
    WHERE provider_message_id = :id AND state = {EvidenceState.OPEN}
""")
_SAVE_PROVIDER_RECORD = text("""
    UPDATE evidence SET provider_phone = :phone, provider_texts = CAST(:texts AS bytea[]), provider_created_at = :at,
                        provider_sender = :sender
    WHERE provider_message_id = :id
""")
_INDISTINGUISHABLE = text(f"""
    SELECT provider_message_id, status FROM evidence
    WHERE state = {EvidenceState.OPEN} AND provider_phone = CAST(:phone AS bigint)
      AND provider_texts && CAST(:texts AS bytea[]) AND provider_sender IS NOT DISTINCT FROM CAST(:sender AS text)
    ORDER BY provider_created_at, provider_message_id
""")
_TAKEN = text(f"""
    SELECT provider_message_id FROM evidence
    WHERE batch_id = :batch_id AND tenant_id = :tenant_id AND position = :position AND state = {EvidenceState.MATCHED}
""")
_MATCH = text(f"""
    UPDATE evidence SET state = {EvidenceState.MATCHED}, reason = '', batch_id = :batch_id, tenant_id = :tenant_id,
                        position = :position
    WHERE provider_message_id = :id AND state = {EvidenceState.OPEN}
""")
# Not `updated_at`: the horizon of those that are not named goes on.
_COUNT_UP = text("UPDATE batches SET evidenced = evidenced + 1 WHERE batch_id = :batch_id AND tenant_id = :tenant_id")
_IDS = text(f"""
    SELECT position, provider_message_id FROM evidence
    WHERE batch_id = :batch_id AND tenant_id = :tenant_id AND state = {EvidenceState.MATCHED} ORDER BY position
""")


async def count_open(connection: AsyncConnection) -> int:
    """Reports still to be looked into."""
    return int((await connection.execute(_COUNT_OPEN)).scalar_one())


async def note(connection: AsyncConnection, reports: Sequence[DeliveryEvidence]) -> int:
    """Keep what reports of different ids say; returns how many of the ids are new."""
    parameters = {
        "ids": [report.provider_message_id for report in reports],
        "raw": [report.raw_status for report in reports],
        "statuses": [report.status for report in reports],
        "final": sorted(FINAL_STATUSES),
    }
    return sum(row.is_new for row in await connection.execute(_NOTE, parameters))


async def take_open(connection: AsyncConnection, limit: int, hide: timedelta) -> list[OpenReport]:
    """Up to `limit` due reports, hidden from everybody else for a while."""
    parameters = {"limit": limit, "hide_seconds": hide.total_seconds()}
    return [
        OpenReport(
            row.provider_message_id,
            row.attempts,
            None if row.provider_created_at is None else _provider_record(row),
        )
        for row in await connection.execute(_TAKE, parameters)
    ]


async def save_provider_record(connection: AsyncConnection, message_id: str, provider_record: ProviderRecord) -> None:
    """Keep what the provider said: it is not asked again."""
    parameters = {
        "id": message_id,
        "phone": provider_record.destination,
        "texts": sorted(provider_record.texts),
        "at": provider_record.created_at,
        "sender": provider_record.sender,
    }
    await connection.execute(_SAVE_PROVIDER_RECORD, parameters)


async def find_indistinguishable(
    connection: AsyncConnection, provider_record: ProviderRecord
) -> dict[str, MessageStatus]:
    """Message id → status of open reports whose messages are like this one, in the order of the messages."""
    parameters = {
        "phone": provider_record.destination,
        "texts": sorted(provider_record.texts),
        "sender": provider_record.sender,
    }
    found = await connection.execute(_INDISTINGUISHABLE, parameters)
    return {row.provider_message_id: MessageStatus(row.status) for row in found}


async def postpone(connection: AsyncConnection, message_id: str, delay: timedelta, reason: str) -> None:
    """Look into it again later."""
    parameters = {"id": message_id, "delay_seconds": delay.total_seconds(), "reason": reason}
    await connection.execute(_POSTPONE, parameters)


async def give_up(connection: AsyncConnection, message_id: str, reason: str) -> None:
    """It proves nothing; it stays, with the reason."""
    await connection.execute(_GIVE_UP, {"id": message_id, "reason": reason})


async def is_named(connection: AsyncConnection, batch: BatchKey, position: int) -> bool:
    """True when evidence has given this recipient his id: no other id can be his."""
    parameters = batch.parameters() | {"position": position}
    return (await connection.execute(_TAKEN, parameters)).scalar_one_or_none() is not None


async def assign(connection: AsyncConnection, message_id: str, batch: BatchKey, position: int) -> str:
    """Give the id to a recipient of a locked batch; returns the id he has: another one when he had one before."""
    parameters = batch.parameters() | {"position": position}
    taken = (await connection.execute(_TAKEN, parameters)).scalar_one_or_none()
    if taken is not None:
        return str(taken)
    if (await connection.execute(_MATCH, parameters | {"id": message_id})).rowcount:
        await connection.execute(_COUNT_UP, batch.parameters())
        return message_id
    return ""


async def read_ids(connection: AsyncConnection, batch: BatchKey) -> dict[int, str]:
    """Position → message id of the recipients that evidence has named, ascending."""
    return {row.position: row.provider_message_id for row in await connection.execute(_IDS, batch.parameters())}


def _provider_record(row: Row[Any]) -> ProviderRecord:
    return ProviderRecord(
        row.provider_phone,
        frozenset(bytes(digest) for digest in row.provider_texts),
        row.provider_created_at,
        row.provider_sender,
    )
