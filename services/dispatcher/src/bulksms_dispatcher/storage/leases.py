"""Leases that ran out, and ambiguity that lasted too long: what the reaper finds."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.batches import BatchKey
from bulksms_dispatcher.domain.protocol import BatchState

__all__ = ["Expired", "find_ambiguous_since", "find_expired"]


@dataclass(frozen=True, slots=True)
class Expired:
    """A batch whose time is over."""

    key: BatchKey
    reservation_id: UUID
    campaign_id: UUID
    state: BatchState
    opted_out_positions: bytes | None
    worker: str


# Not locked here: what is done about it is a compare-and-set of its own, and loses against a worker that is quicker.
# An armed batch is not found while the server is younger than `grace`: after an outage its worker speaks first.
_EXPIRED = text(f"""
    SELECT tenant_id, batch_id, epoch, attempt_id, reservation_id, campaign_id, state, opted_out_positions, worker
    FROM batches JOIN submissions USING (submission_id, tenant_id, campaign_id)
    WHERE state IN ({BatchState.LEASED}, {BatchState.ARMED}) AND lease_until < clock_timestamp()
      AND state = ANY(:states)
      AND (state = {BatchState.LEASED}
           OR pg_postmaster_start_time() < clock_timestamp() - make_interval(secs => :grace_seconds))
    ORDER BY lease_until LIMIT :limit
""")
_AMBIGUOUS = text(f"""
    SELECT tenant_id, batch_id, epoch, attempt_id, reservation_id, campaign_id, state, opted_out_positions, worker
    FROM batches JOIN submissions USING (submission_id, tenant_id, campaign_id)
    WHERE state = {BatchState.AMBIGUOUS} AND updated_at < now() - make_interval(secs => :horizon_seconds)
    ORDER BY updated_at LIMIT :limit
""")


async def find_expired(
    connection: AsyncConnection, limit: int, states: Collection[BatchState], grace: timedelta
) -> list[Expired]:
    """Batches in `states` whose lease ran out, longest first; ARMED ones once the server has run for `grace`."""
    parameters = {
        "limit": limit,
        "states": [int(state) for state in states],
        "grace_seconds": grace.total_seconds(),
    }
    return await _read(connection, _EXPIRED, parameters)


async def find_ambiguous_since(connection: AsyncConnection, horizon: timedelta, limit: int) -> list[Expired]:
    """AMBIGUOUS batches that nothing was heard of for so long."""
    return await _read(connection, _AMBIGUOUS, {"limit": limit, "horizon_seconds": horizon.total_seconds()})


async def _read(connection: AsyncConnection, statement: TextClause, parameters: dict[str, object]) -> list[Expired]:
    rows = await connection.execute(statement, parameters)
    return [
        Expired(
            BatchKey(r.tenant_id, r.batch_id, r.epoch, r.attempt_id),
            r.reservation_id,
            r.campaign_id,
            BatchState(r.state),
            r.opted_out_positions,
            r.worker,
        )
        for r in rows
    ]
