"""Batches that a journaled response may resolve: read again with all that is needed to judge it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.batches import LeasedBatch
from bulksms_dispatcher.domain.protocol import BatchState

__all__ = ["SentBatch", "find_open", "find_sent"]


@dataclass(frozen=True, slots=True)
class SentBatch:
    """A batch that was armed, as its worker had it."""

    batch: LeasedBatch
    state: BatchState
    opted_out_positions: bytes | None


_OPEN = text(f"""
    SELECT batch_id FROM batches
    WHERE batch_id = ANY(CAST(:ids AS uuid[])) AND state IN ({BatchState.ARMED}, {BatchState.AMBIGUOUS})
""")
_SENT = text(f"""
    SELECT b.batch_id, b.tenant_id, b.campaign_id, b.submission_id, b.number, s.enqueue_number, b.epoch, b.attempts,
           b.retries, b.recipients, b.first_phone, b.last_phone, b.packed, s.text, s.sender, s.variable_names,
           s.reservation_id, b.traceparent, s.snapshot_digest, 0.0::double precision AS waited_seconds, b.attempt_id,
           b.state, b.opted_out_positions
    FROM batches b JOIN submissions s ON s.submission_id = b.submission_id AND s.tenant_id = b.tenant_id
    WHERE b.batch_id = :batch_id AND b.state IN ({BatchState.ARMED}, {BatchState.AMBIGUOUS})
""")


async def find_open(connection: AsyncConnection, batch_ids: Sequence[UUID]) -> set[UUID]:
    """Those of the batches that wait for their outcome."""
    return set((await connection.execute(_OPEN, {"ids": list(batch_ids)})).scalars())


async def find_sent(connection: AsyncConnection, batch_id: UUID) -> SentBatch | None:
    """Read a batch that waits for its outcome; None when it does not any more."""
    row = (await connection.execute(_SENT, {"batch_id": batch_id})).one_or_none()
    if row is None:
        return None
    fields = row._asdict()
    state, opted_out_positions = BatchState(fields.pop("state")), fields.pop("opted_out_positions")
    return SentBatch(LeasedBatch(**fields | {"variable_names": tuple(row.variable_names)}), state, opted_out_positions)
