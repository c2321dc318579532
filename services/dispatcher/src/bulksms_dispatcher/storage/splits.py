"""Splits: some recipients of a batch as a READY batch of their own."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.batches import BatchKey, batch_id_of
from bulksms_dispatcher.domain.protocol import BatchState
from bulksms_dispatcher.domain.recipients import Recipients, pack

__all__ = ["insert", "lock_number", "shrink"]

_LOCK = text(
    "SELECT batches FROM submissions WHERE submission_id = :submission_id AND tenant_id = :tenant_id FOR UPDATE"
)
_COUNT = text("""
    UPDATE submissions SET batches = batches + 1 WHERE submission_id = :submission_id AND tenant_id = :tenant_id
""")
# To the campaign service, what is reported of a later epoch counts, and these recipients may have been reported.
_INSERT = text(f"""
    INSERT INTO batches (batch_id, tenant_id, campaign_id, submission_id, number, recipients, first_phone, last_phone,
                         packed, priority, state, epoch, retries, reason, not_before,
                         not_after)
    SELECT :new_id, tenant_id, campaign_id, submission_id, :number, :recipients, :first_phone, :last_phone, :packed,
           priority, {BatchState.READY}, epoch + :later_epochs, retries + :retries, :reason,
           clock_timestamp() + make_interval(secs => :delay_seconds), not_after
    FROM batches WHERE batch_id = :batch_id AND tenant_id = :tenant_id
""")
_SHRINK = text("""
    UPDATE batches
    SET packed = :packed, recipients = :recipients, first_phone = :first_phone, last_phone = :last_phone,
        updated_at = clock_timestamp()
    WHERE batch_id = :batch_id AND tenant_id = :tenant_id AND epoch = :epoch
""")


async def lock_number(connection: AsyncConnection, tenant_id: str, submission_id: UUID) -> int:
    """The number the submission's next batch will have; ask before any batch is locked (lock order)."""
    return int((await connection.execute(_LOCK, {"submission_id": submission_id, "tenant_id": tenant_id})).scalar_one())


async def insert(
    connection: AsyncConnection,
    parent: BatchKey,
    submission_id: UUID,
    number: int,
    recipients: Recipients,
    *,
    reason: str,
    delay: timedelta,
    later_epochs: int = 0,
    retries: int = 0,
) -> BatchKey:
    """Store the new batch; returns its key. The parent's row is not touched."""
    new_id = batch_id_of(parent.tenant_id, submission_id, number)
    await connection.execute(_COUNT, {"submission_id": submission_id, "tenant_id": parent.tenant_id})
    await connection.execute(
        _INSERT,
        _packed_fields(recipients)
        | parent.parameters()
        | {
            "new_id": new_id,
            "number": number,
            "reason": reason,
            "delay_seconds": delay.total_seconds(),
            "later_epochs": later_epochs,
            "retries": retries,
        },
    )
    return BatchKey(parent.tenant_id, new_id, parent.epoch + later_epochs)


async def shrink(connection: AsyncConnection, batch: BatchKey, kept: Recipients) -> None:
    """Leave only these in a batch that the transaction has locked."""
    await connection.execute(_SHRINK, _packed_fields(kept) | batch.parameters())


def _packed_fields(recipients: Recipients) -> dict[str, object]:
    """The columns that say who is in a batch."""
    phones = recipients.phones
    return {
        "packed": pack(recipients),
        "recipients": len(phones),
        "first_phone": phones[0],
        "last_phone": phones[-1],
    }
