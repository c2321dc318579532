"""Single messages: one row each, kept in step with the batch that sends it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.messages import (
    DeliveryEvidence,
    Message,
    MessageClass,
    MessageReference,
    MessageStatus,
)
from bulksms_dispatcher.domain.results import Group, RecipientOutcome

__all__ = [
    "delete_unsent",
    "fail_unqueued",
    "find",
    "find_abandoned",
    "find_fingerprint",
    "insert",
    "is_waiting",
    "list_page",
    "name",
    "record_outcome",
    "record_reports",
    "release_credit",
]

CREDIT_RESERVED = "INTERRUPTED_CREDIT_RESERVED"
"""Reason of a message that failed because its caller died, as long as its credit may still be reserved."""

_INTERRUPTED = "INTERRUPTED"

_COLUMNS = """message_id, tenant_id, external_id, phone, sender, message_class, status, reason, description,
              provider_message_id, parts, created_at, updated_at"""
_INSERT = text("""
    INSERT INTO messages (message_id, tenant_id, external_id, phone, sender, message_class, fingerprint, parts)
    VALUES (:message_id, :tenant_id, :external_id, :phone, :sender, :message_class, :fingerprint, :parts)
    ON CONFLICT DO NOTHING
""")
# Only while no batch exists for it: a message that may be sent is never forgotten.
_DELETE_UNSENT = text("""
    DELETE FROM messages WHERE message_id = :message_id AND tenant_id = :tenant_id AND created_at = :created_at
      AND NOT EXISTS (SELECT 1 FROM submissions WHERE submission_id = :message_id AND tenant_id = :tenant_id)
""")
_FIND = text(f"SELECT {_COLUMNS} FROM messages WHERE message_id = :message_id AND tenant_id = :tenant_id")
_FIND_EXTERNAL = text(f"SELECT {_COLUMNS} FROM messages WHERE tenant_id = :tenant_id AND external_id = :external_id")
_FIND_PROVIDER = text(f"""
    SELECT {_COLUMNS} FROM messages WHERE provider_message_id = :provider_message_id AND tenant_id = :tenant_id
""")
_FINGERPRINT = text("SELECT fingerprint FROM messages WHERE message_id = :message_id AND tenant_id = :tenant_id")
_LIST = text(f"""
    SELECT {_COLUMNS} FROM messages
    WHERE tenant_id = :tenant_id
      AND (CAST(:before AS uuid) IS NULL OR (created_at, message_id) < (
          SELECT created_at, message_id FROM messages WHERE message_id = :before AND tenant_id = :tenant_id))
    ORDER BY created_at DESC, message_id DESC LIMIT :limit
""")
# A report may have come first: what is final stays, and so do the words about it.
_FINAL = f"status IN ({MessageStatus.DELIVERED}, {MessageStatus.FAILED})"
_RECORD_OUTCOME = text(f"""
    UPDATE messages
    SET status = CASE WHEN {_FINAL} THEN status ELSE :status END,
        reason = CASE WHEN {_FINAL} THEN reason ELSE :reason END,
        description = CASE WHEN {_FINAL} THEN description ELSE :description END, updated_at = clock_timestamp(),
        provider_message_id = coalesce(:provider_message_id, provider_message_id)
    WHERE message_id = :message_id AND tenant_id = :tenant_id
""")
# Evidence that came after its time was over: it was sent all the same. A report may have come first.
_NAME = text(f"""
    UPDATE messages
    SET status = CASE WHEN status IN ({MessageStatus.UNCONFIRMED}, {MessageStatus.FAILED}) THEN {MessageStatus.SENT}
                      ELSE status END,
        reason = '', description = '', provider_message_id = :provider_message_id, updated_at = clock_timestamp()
    WHERE message_id = :message_id AND tenant_id = :tenant_id AND provider_message_id IS NULL
""")
_FIND_ABANDONED = text(f"""
    SELECT m.message_id, m.tenant_id FROM messages m
    WHERE (m.status = {MessageStatus.QUEUED} OR m.reason = '{CREDIT_RESERVED}')
      AND m.created_at < now() - make_interval(secs => :age_seconds)
      AND NOT EXISTS (SELECT 1 FROM submissions s WHERE s.submission_id = m.message_id AND s.tenant_id = m.tenant_id)
    ORDER BY m.created_at LIMIT :limit
""")
_LOCK = text("SELECT status FROM messages WHERE message_id = :message_id AND tenant_id = :tenant_id FOR UPDATE")
_FAIL_UNQUEUED = text(f"""
    UPDATE messages SET status = {MessageStatus.FAILED}, reason = '{CREDIT_RESERVED}', updated_at = clock_timestamp()
    WHERE message_id = :message_id AND tenant_id = :tenant_id
      AND NOT EXISTS (SELECT 1 FROM submissions s WHERE s.submission_id = :message_id AND s.tenant_id = :tenant_id)
""")
_RELEASE_CREDIT = text(f"""
    UPDATE messages SET reason = '{_INTERRUPTED}'
    WHERE message_id = :message_id AND tenant_id = :tenant_id AND reason = '{CREDIT_RESERVED}'
""")
# One row per message id: the most final of its reports. Delivered and failed stay; "sent" changes nothing by itself.
_REPORTS = text(f"""
    WITH reports AS (
        SELECT * FROM unnest(CAST(:ids AS text[]), CAST(:statuses AS smallint[]), CAST(:raw AS text[]),
                             CAST(:descriptions AS text[])) AS r (message_id, status, raw_status, description)
    ), changed AS (
        UPDATE messages m
        SET status = r.status, updated_at = clock_timestamp(),
            description = CASE WHEN r.status = {MessageStatus.FAILED} THEN r.description ELSE '' END,
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
    RecipientOutcome.UNRESOLVED: MessageStatus.UNCONFIRMED,
}


async def insert(connection: AsyncConnection, message: Message, fingerprint: bytes) -> bool:
    """Store a message that was asked for; False when its id, or its external id, is taken."""
    result = await connection.execute(
        _INSERT,
        {
            "message_id": message.message_id,
            "tenant_id": message.tenant_id,
            "external_id": message.external_id or None,
            "phone": message.phone,
            "sender": message.sender,
            "message_class": message.message_class,
            "fingerprint": fingerprint,
            "parts": message.parts,
        },
    )
    return result.rowcount == 1


async def delete_unsent(connection: AsyncConnection, message: Message) -> None:
    """Forget a message whose credit was refused, not one stored since under the same id."""
    parameters = {"tenant_id": message.tenant_id, "message_id": message.message_id, "created_at": message.created_at}
    await connection.execute(_DELETE_UNSENT, parameters)


async def find(connection: AsyncConnection, tenant_id: str, reference: MessageReference) -> Message | None:
    """Read one."""
    parameters: dict[str, object] = {"tenant_id": tenant_id}
    if reference.message_id is not None:
        statement, parameters["message_id"] = _FIND, reference.message_id
    elif reference.external_id:
        statement, parameters["external_id"] = _FIND_EXTERNAL, reference.external_id
    else:
        statement, parameters["provider_message_id"] = _FIND_PROVIDER, reference.provider_message_id
    row = (await connection.execute(statement, parameters)).one_or_none()
    return None if row is None else _message(row._asdict())


async def find_fingerprint(connection: AsyncConnection, tenant_id: str, message_id: UUID) -> bytes | None:
    """What it was asked for with."""
    found = (
        await connection.execute(_FINGERPRINT, {"tenant_id": tenant_id, "message_id": message_id})
    ).scalar_one_or_none()
    return None if found is None else bytes(found)


async def list_page(connection: AsyncConnection, tenant_id: str, before: UUID | None, limit: int) -> list[Message]:
    """A tenant's messages, newest first, those before `before`."""
    parameters = {"tenant_id": tenant_id, "before": before, "limit": limit}
    return [_message(row._asdict()) for row in await connection.execute(_LIST, parameters)]


async def record_outcome(
    connection: AsyncConnection, tenant_id: str, message_id: UUID, group: Group, provider_message_id: str | None
) -> None:
    """Write what became of the only recipient of a single message's batch."""
    await connection.execute(
        _RECORD_OUTCOME,
        {
            "tenant_id": tenant_id,
            "message_id": message_id,
            "status": _STATUS_OF.get(group.outcome, MessageStatus.FAILED),
            "reason": group.reason,
            "description": group.description,
            "provider_message_id": provider_message_id,
        },
    )


async def is_waiting(connection: AsyncConnection, tenant_id: str, message_id: UUID) -> bool:
    """True when it may still be queued; it stays so until the transaction ends."""
    return (
        await connection.execute(_LOCK, {"tenant_id": tenant_id, "message_id": message_id})
    ).scalar_one_or_none() == MessageStatus.QUEUED


async def find_abandoned(connection: AsyncConnection, age: timedelta, limit: int) -> list[tuple[UUID, str]]:
    """(id, tenant) of messages asked for so long ago: never queued, or failed with their credit still reserved."""
    parameters = {"age_seconds": age.total_seconds(), "limit": limit}
    return [(row.message_id, row.tenant_id) for row in await connection.execute(_FIND_ABANDONED, parameters)]


async def fail_unqueued(connection: AsyncConnection, tenant_id: str, message_id: UUID) -> bool:
    """Give it up unless it was queued; its reservation is to be closed then."""
    await connection.execute(_LOCK, {"tenant_id": tenant_id, "message_id": message_id})  # who queues it has it locked
    return (await connection.execute(_FAIL_UNQUEUED, {"tenant_id": tenant_id, "message_id": message_id})).rowcount == 1


async def release_credit(connection: AsyncConnection, tenant_id: str, message_id: UUID) -> None:
    """Its credit is not reserved any more."""
    await connection.execute(_RELEASE_CREDIT, {"tenant_id": tenant_id, "message_id": message_id})


async def name(connection: AsyncConnection, tenant_id: str, message_id: UUID, provider_message_id: str) -> None:
    """Write the id that evidence found for a message nobody believed in any more."""
    await connection.execute(
        _NAME, {"tenant_id": tenant_id, "message_id": message_id, "provider_message_id": provider_message_id}
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
    fields["message_class"] = MessageClass(fields["message_class"])
    fields["external_id"] = fields["external_id"] or ""
    fields["provider_message_id"] = fields["provider_message_id"] or ""
    if fields["reason"] == CREDIT_RESERVED:
        fields["reason"] = _INTERRUPTED
    return Message(**fields)
