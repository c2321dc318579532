"""Submissions and the batches they are cut into: stored batch by batch, each in a short transaction."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.batches import batch_id_of
from bulksms_dispatcher.domain.protocol import BatchState
from bulksms_dispatcher.domain.recipients import Recipients, pack
from bulksms_dispatcher.domain.submissions import Submission, SubmissionProgress

__all__ = ["Stored", "backlog", "find", "insert", "insert_batch", "lock", "save_progress"]


@dataclass(frozen=True, slots=True)
class Stored:
    """A submission's row: how far it is, and the fingerprint of its header."""

    progress: SubmissionProgress
    fingerprint: bytes


_INSERT = text("""
    INSERT INTO submissions (submission_id, tenant_id, campaign_id, enqueue_number, reservation_id, text,
                             variable_names, sender, priority, message_class, traceparent, snapshot_digest,
                             fingerprint)
    VALUES (:submission_id, :tenant_id, :campaign_id, :enqueue_number, :reservation_id, :text,
            :variable_names, :sender, :priority, :message_class, :traceparent, :snapshot_digest,
            :fingerprint)
    ON CONFLICT DO NOTHING
""")
_FIND = """
    SELECT next_index, last_phone, batches, complete, fingerprint FROM submissions
    WHERE submission_id = :submission_id AND tenant_id = :tenant_id
"""
_FIND_PLAIN = text(_FIND)
_FIND_LOCKED = text(f"{_FIND} FOR UPDATE")
_INSERT_BATCH = text(f"""
    INSERT INTO batches (batch_id, tenant_id, campaign_id, submission_id, number, recipients, first_phone, last_phone,
                         packed, priority, not_after, state)
    VALUES (:batch_id, :tenant_id, :campaign_id, :submission_id, :number, :recipients, :first_phone, :last_phone,
            :packed, :priority, :not_after, {BatchState.READY})
""")
_SAVE_PROGRESS = text("""
    UPDATE submissions SET next_index = :next_index, last_phone = :last_phone, batches = :batches, complete = :complete
    WHERE submission_id = :submission_id AND tenant_id = :tenant_id
""")
# One range of an index that covers it.
_BACKLOG = text(f"SELECT coalesce(sum(recipients), 0)::bigint FROM batches WHERE state = {BatchState.READY}")


async def insert(connection: AsyncConnection, submission: Submission) -> bool:
    """Store the header; False, and nothing happens, when it is there."""
    result = await connection.execute(
        _INSERT,
        {
            "submission_id": submission.submission_id,
            "tenant_id": submission.tenant_id,
            "campaign_id": submission.campaign_id,
            "enqueue_number": submission.enqueue_number,
            "reservation_id": submission.reservation_id,
            "text": submission.text,
            "variable_names": list(submission.variable_names),
            "sender": submission.sender,
            "priority": submission.priority,
            "message_class": submission.message_class,
            "traceparent": submission.traceparent,
            "snapshot_digest": submission.snapshot_digest,
            "fingerprint": submission.fingerprint,
        },
    )
    return result.rowcount == 1


async def find(connection: AsyncConnection, tenant_id: str, submission_id: UUID) -> Stored | None:
    """Read how far a submission is."""
    return await _one(connection, tenant_id, submission_id, locked=False)


async def lock(connection: AsyncConnection, submission: Submission) -> Stored:
    """The same, and nobody else goes on with it until the transaction ends."""
    stored = await _one(connection, submission.tenant_id, submission.submission_id, locked=True)
    if stored is None:
        raise LookupError("a submission is inserted before it is locked")
    return stored


async def insert_batch(
    connection: AsyncConnection, submission: Submission, number: int, recipients: Recipients
) -> UUID:
    """Store one READY batch; returns its id."""
    batch_id = batch_id_of(submission.tenant_id, submission.submission_id, number)
    await connection.execute(
        _INSERT_BATCH,
        {
            "batch_id": batch_id,
            "tenant_id": submission.tenant_id,
            "campaign_id": submission.campaign_id,
            "submission_id": submission.submission_id,
            "number": number,
            "recipients": len(recipients.phones),
            "first_phone": recipients.phones[0],
            "last_phone": recipients.phones[-1],
            "packed": pack(recipients),
            "priority": submission.priority,
            "not_after": submission.not_after,
        },
    )
    return batch_id


async def save_progress(connection: AsyncConnection, submission: Submission, progress: SubmissionProgress) -> None:
    """Store how far it is now."""
    await connection.execute(
        _SAVE_PROGRESS,
        {
            "submission_id": submission.submission_id,
            "tenant_id": submission.tenant_id,
            "next_index": progress.next_index,
            "last_phone": progress.last_phone,
            "batches": progress.batches,
            "complete": progress.complete,
        },
    )


async def backlog(connection: AsyncConnection) -> int:
    """Recipients in READY batches of all tenants."""
    return int((await connection.execute(_BACKLOG)).scalar_one())


async def _one(connection: AsyncConnection, tenant_id: str, submission_id: UUID, *, locked: bool) -> Stored | None:
    statement = _FIND_LOCKED if locked else _FIND_PLAIN
    row = (await connection.execute(statement, {"submission_id": submission_id, "tenant_id": tenant_id})).one_or_none()
    if row is None:
        return None
    return Stored(SubmissionProgress(row.next_index, row.last_phone, row.batches, row.complete), row.fingerprint)
