"""Deferrals: numbers with an unresolved message, and batches split so that they wait while the others go out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.batches import LeasedBatch
from bulksms_dispatcher.domain.evidence import EvidenceState
from bulksms_dispatcher.domain.protocol import BatchState
from bulksms_dispatcher.domain.recipients import Recipients
from bulksms_dispatcher.storage import campaigns, splits

__all__ = [
    "EARLIER_MESSAGE_UNRESOLVED",
    "UnresolvedBatch",
    "UnresolvedNumbers",
    "find_unresolved",
    "read_numbers",
    "split_off",
]

EARLIER_MESSAGE_UNRESOLVED = "EARLIER_MESSAGE_UNRESOLVED"


@dataclass(frozen=True, slots=True)
class UnresolvedBatch:
    """An ambiguous batch; another `evidenced` means that fewer of its recipients are unresolved."""

    batch_id: UUID
    tenant_id: str
    epoch: int
    evidenced: int


@dataclass(frozen=True, slots=True)
class UnresolvedNumbers:
    """Its recipients as stored, and those of them that evidence has named."""

    packed: bytes
    opted_out_positions: bytes | None
    resolved: Sequence[int]


# The partial index of ambiguous batches: usually empty, and then this costs next to nothing.
_FIND = text(f"""
    SELECT batch_id, tenant_id, epoch, evidenced FROM batches
    WHERE state = {BatchState.AMBIGUOUS} AND first_phone <= :last AND last_phone >= :first AND batch_id <> :batch_id
""")
_NUMBERS = text(f"""
    SELECT packed, opted_out_positions, ARRAY(
        SELECT e.position FROM evidence e
        WHERE e.batch_id = b.batch_id AND e.tenant_id = b.tenant_id AND e.state = {EvidenceState.MATCHED}
    ) AS resolved
    FROM batches b WHERE b.batch_id = :batch_id AND b.tenant_id = :tenant_id
""")
_SHRINK = text(f"""
    UPDATE batches
    SET packed = :packed, recipients = :recipients, first_phone = :first_phone, last_phone = :last_phone,
        updated_at = clock_timestamp()
    WHERE batch_id = :batch_id AND tenant_id = :tenant_id AND state = {BatchState.LEASED} AND epoch = :epoch
      AND worker = :worker
""")


async def find_unresolved(connection: AsyncConnection, batch: LeasedBatch) -> list[UnresolvedBatch]:
    """Other ambiguous batches whose range of numbers meets this one's."""
    parameters = {"first": batch.first_phone, "last": batch.last_phone, "batch_id": batch.batch_id}
    return [UnresolvedBatch(*row) for row in await connection.execute(_FIND, parameters)]


async def read_numbers(connection: AsyncConnection, batch: UnresolvedBatch) -> UnresolvedNumbers:
    """Who they were."""
    row = (await connection.execute(_NUMBERS, {"batch_id": batch.batch_id, "tenant_id": batch.tenant_id})).one()
    return UnresolvedNumbers(row.packed, row.opted_out_positions, row.resolved)


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
    shrunk = await connection.execute(
        _SHRINK,
        splits.packed_fields(kept) | batch.key.parameters() | {"worker": worker},
    )
    if not shrunk.rowcount:
        return False
    await splits.insert(connection, batch.key, batch.submission_id, number, deferred, reason=reason, delay=delay)
    return True
