"""Single messages: one row each, kept in step with the batch that sends it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.messages import DeliveryEvidence, Message, MessageStatus
from bulksms_dispatcher.results import Group, RecipientOutcome

__all__ = ["delete_unsent", "find", "find_fingerprint", "insert", "list_page", "record_reports", "settle"]

_COLUMNS = """message_id, tenant_id, phone, sender, status, reason, description, provider_message_id, parts, created_at,
              updated_at"""
_INSERT = text("""
    INSERT INTO messages (message_id, tenant_id, phone, sender, fingerprint, parts)
    VALUES (:message_id, :tenant_id, :phone, :sender, :fingerprint, :parts)
    ON CONFLICT DO NOTHING
""")
# Only while no batch exists for it: a message that may be sent is never forgotten.
_DELETE_UNSENT = text("""
    DELETE FROM messages WHERE message_id = :message_id
      AND NOT EXISTS (SELECT 1 FROM submissions WHERE submission_id = :message_id)
""")
_FIND = text(f"SELECT {_COLUMNS} FROM messages WHERE message_id = :message_id AND tenant_id = :tenant_id")
_FINGERPRINT = text("SELECT fingerprint FROM messages WHERE message_id = :message_id")
_LIST = text(f"""
    SELECT {_COLUMNS} FROM messages
    WHERE tenant_id = :tenant_id
      AND (CAST(:before AS uuid) IS NULL OR (created_at, message_id) < (
          SELECT created_at, message_id FROM messages WHERE message_id = :before AND tenant_id = :tenant_id))
    ORDER BY created_at DESC, message_id DESC LIMIT :limit
""")
# A report may have come first: what is final stays.
_SETTLE = text(f"""
    UPDATE messages
    SET status = CASE WHEN status IN ({MessageStatus.DELIVERED}, {MessageStatus.FAILED}) THEN status ELSE :status END,
        reason = :reason, description = :description, updated_at = clock_timestamp(),
        provider_message_id = coalesce(:provider_message_id, provider_message_id)
    WHERE message_id = :message_id
""")
# One row per message id: the most final of its reports. Delivered and failed stay; "sent" changes nothing by itself.
_REPORTS = text(f"""
    WITH reports AS (
        SELECT * FROM unnest(CAST(:ids AS text[]), CAST(:statuses AS smallint[]), CAST(:raw AS text[]),
                             CAST(:descriptions AS text[])) AS r (message_id, status, raw_status, description)
    ), changed AS (
        UPDATE messages m
        SET status = r.status, updated_at = clock_timestamp(), description = r.description,
            reason = CASE WHEN r.status = {MessageStatus.FAILED} THEN 'NOT_DELIVERED' ELSE '' END
        FROM reports r
        WHERE m.provider_message_id = r.message_id AND r.status IN ({MessageStatus.DELIVERED}, {MessageStatus.FAILED})
          AND m.status NOT IN ({MessageStatus.DELIVERED}, {MessageStatus.FAILED})
    )
    SELECT m.provider_message_id FROM messages m JOIN reports r ON m.provider_message_id = r.message_id
""")

_STATUS_OF = {
    RecipientOutcome.ACCEPTED: MessageStatus.SENT,
    RecipientOutcome.AMBIGUOUS: MessageStatus.UNCONFIRMED,
    RecipientOutcome.UNKNOWN: MessageStatus.UNCONFIRMED,
}


async def insert(connection: AsyncConnection, message: Message, fingerprint: bytes) -> bool:
    """Store a message that was asked for; False when its id is taken."""
    result = await connection.execute(
        _INSERT,
        {
            "message_id": message.message_id,
            "tenant_id": message.tenant_id,
            "phone": message.phone,
            "sender": message.sender,
            "fingerprint": fingerprint,
            "parts": message.parts,
        },
    )
    return result.rowcount == 1


async def delete_unsent(connection: AsyncConnection, message_id: UUID) -> None:
    """Forget a message whose credit was refused."""
    await connection.execute(_DELETE_UNSENT, {"message_id": message_id})


async def find(connection: AsyncConnection, tenant_id: str, message_id: UUID) -> Message | None:
    """Read one."""
    parameters = {"tenant_id": tenant_id, "message_id": message_id}
    row = (await connection.execute(_FIND, parameters)).one_or_none()
    return None if row is None else _message(row._asdict())


async def find_fingerprint(connection: AsyncConnection, message_id: UUID) -> bytes | None:
    """What it was asked for with."""
    found = (await connection.execute(_FINGERPRINT, {"message_id": message_id})).scalar_one_or_none()
    return None if found is None else bytes(found)


async def list_page(connection: AsyncConnection, tenant_id: str, before: UUID | None, limit: int) -> list[Message]:
    """A tenant's messages, newest first, those before `before`."""
    parameters = {"tenant_id": tenant_id, "before": before, "limit": limit}
    return [_message(row._asdict()) for row in await connection.execute(_LIST, parameters)]


async def settle(connection: AsyncConnection, message_id: UUID, group: Group, provider_message_id: str | None) -> None:
    """Write what became of the only recipient of a single message's batch."""
    await connection.execute(
        _SETTLE,
        {
            "message_id": message_id,
            "status": _STATUS_OF.get(group.outcome, MessageStatus.FAILED),
            "reason": group.reason,
            "description": group.description,
            "provider_message_id": provider_message_id,
        },
    )


async def record_reports(connection: AsyncConnection, reports: Sequence[DeliveryEvidence]) -> set[str]:
    """Write reports of single messages; returns the provider's ids that are known. One report per id."""
    parameters = {
        "ids": [report.provider_message_id for report in reports],
        "statuses": [int(report.status) for report in reports],
        "raw": [report.raw_status for report in reports],
        "descriptions": [report.description for report in reports],
    }
    return set((await connection.execute(_REPORTS, parameters)).scalars())


def _message(row: Mapping[str, Any]) -> Message:
    fields = dict(row)
    fields["status"] = MessageStatus(fields["status"])
    fields["provider_message_id"] = fields["provider_message_id"] or ""
    return Message(**fields)
