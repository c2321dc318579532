"""Deferrals: unresolved batches that a batch may meet, and batches split so that some wait while the others go out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.batches import BatchKey, LeasedBatch
from bulksms_dispatcher.domain.protocol import BatchState
from bulksms_dispatcher.domain.recipients import Recipients
from bulksms_dispatcher.storage import campaigns, splits

__all__ = ["EARLIER_MESSAGE_UNRESOLVED", "UnresolvedBatch", "find_unresolved", "split_off"]

EARLIER_MESSAGE_UNRESOLVED = "EARLIER_MESSAGE_UNRESOLVED"


@dataclass(frozen=True, slots=True)
class UnresolvedBatch:
    """An ambiguous batch; another `evidenced` means that fewer of its recipients are unresolved."""

    batch_id: UUID
    tenant_id: str
    epoch: int
    evidenced: int

    @property
    def key(self) -> BatchKey:
        """What names it."""
        return BatchKey(self.tenant_id, self.batch_id, self.epoch)


# The partial index of ambiguous batches: usually empty, and then this costs next to nothing.
_FIND = text(f"""
    SELECT batch_id, tenant_id, epoch, evidenced FROM batches
    WHERE state = {BatchState.AMBIGUOUS} AND tenant_id = :tenant_id
      AND first_phone <= :last AND last_phone >= :first AND batch_id <> :batch_id
""")
_LOCK = text(f"""
    SELECT 1 FROM batches
    WHERE batch_id = :batch_id AND tenant_id = :tenant_id AND state = {BatchState.LEASED} AND epoch = :epoch
      AND worker = :worker
    FOR UPDATE
""")


async def find_unresolved(connection: AsyncConnection, batch: LeasedBatch) -> list[UnresolvedBatch]:
    """Other ambiguous batches of the tenant's whose range of numbers meets this one's."""
    parameters = {
        "tenant_id": batch.tenant_id,
        "first": batch.first_phone,
        "last": batch.last_phone,
        "batch_id": batch.batch_id,
    }
    return [UnresolvedBatch(*row) for row in await connection.execute(_FIND, parameters)]


async def split_off(
    connection: AsyncConnection,
    batch: LeasedBatch,
    worker: str,
    kept: Recipients,
    deferred: Recipients,
    delay: timedelta,
    *,
    reason: str = EARLIER_MESSAGE_UNRESOLVED,
) -> bool:
    """Move `deferred` into a READY batch of their own; False when the batch is not this worker's any more.

    Locks in the order used everywhere: campaign, submission, batch.
    """
    flags = await campaigns.lock_shared(connection, batch.tenant_id, batch.campaign_id)
    if flags.cancelled:
        return False
    number = await splits.lock_number(connection, batch.tenant_id, batch.submission_id)
    if not (await connection.execute(_LOCK, batch.key.parameters() | {"worker": worker})).all():
        return False
    await splits.shrink(connection, batch.key, kept)
    await splits.insert(connection, batch.key, batch.submission_id, number, deferred, reason=reason, delay=delay)
    return True
