"""Claims: which lanes have something to send, and taking one batch of a lane under a lease."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.batches import BatchKey, Lane, LeasedBatch
from bulksms_dispatcher.domain.protocol import BatchState, check_transition
from bulksms_dispatcher.storage.stops import is_arm_stopped, is_batch_stopped, is_lane_stopped

__all__ = ["MAX_LANES", "LaneState", "LeasedId", "arm", "claim", "find_leased", "read_lanes"]

MAX_LANES = 1000


@dataclass(frozen=True, slots=True)
class LaneState:
    """A lane with READY batches; `due_in_seconds` is not positive when one of them may be claimed now."""

    lane: Lane
    due_in_seconds: float


@dataclass(frozen=True, slots=True)
class LeasedId:
    """What is needed to hand a leased batch back."""

    key: BatchKey
    campaign_id: UUID


# A loose scan of batches_claim: one index probe per lane, however many batches it has.
_LANES = text(f"""
    WITH RECURSIVE lanes AS (
        (SELECT priority, tenant_id, campaign_id FROM batches WHERE state = {BatchState.READY}
         ORDER BY priority, tenant_id, campaign_id LIMIT 1)
        UNION ALL
        SELECT following.* FROM lanes CROSS JOIN LATERAL (
            SELECT b.priority, b.tenant_id, b.campaign_id FROM batches b
            WHERE b.state = {BatchState.READY}
              AND (b.priority, b.tenant_id, b.campaign_id) > (lanes.priority, lanes.tenant_id, lanes.campaign_id)
            ORDER BY b.priority, b.tenant_id, b.campaign_id LIMIT 1
        ) following
    )
    SELECT lanes.priority, lanes.tenant_id, lanes.campaign_id,
           extract(epoch FROM earliest.not_before - clock_timestamp())::double precision AS due_in_seconds
    FROM lanes
    LEFT JOIN campaigns c ON c.campaign_id = lanes.campaign_id AND c.tenant_id = lanes.tenant_id
    CROSS JOIN LATERAL (
        SELECT b.not_before, b.submission_id FROM batches b
        WHERE b.state = {BatchState.READY} AND b.priority = lanes.priority AND b.tenant_id = lanes.tenant_id
          AND b.campaign_id = lanes.campaign_id
        ORDER BY b.not_before LIMIT 1
    ) earliest
    WHERE NOT coalesce(c.paused OR c.cancelled, false) AND NOT {is_lane_stopped("lanes", "earliest")}
    ORDER BY lanes.priority DESC, earliest.not_before
    LIMIT {MAX_LANES}
""")

# now() where the index needs a fixed value to stop at, clock_timestamp() in what is written. Pauses and stops are asked
# for in the claim itself: from the commit of PauseCampaign on, no claim of the campaign succeeds.
_CLAIM = text(f"""
    WITH picked AS (
        SELECT b.batch_id, b.tenant_id, b.not_before, b.reason FROM batches b
        WHERE b.state = {BatchState.READY} AND b.priority = :priority AND b.tenant_id = :tenant_id
          AND b.campaign_id = :campaign_id AND b.not_before <= now()
          AND (b.not_after IS NULL OR b.not_after > clock_timestamp())
          AND NOT EXISTS (
              SELECT 1 FROM campaigns c
              WHERE c.campaign_id = :campaign_id AND c.tenant_id = :tenant_id AND (c.paused OR c.cancelled))
          AND NOT {is_batch_stopped("b")}
        ORDER BY b.not_before, b.seq
        LIMIT 1
        FOR UPDATE OF b SKIP LOCKED
    )
    UPDATE batches b
    SET state = {BatchState.LEASED}, worker = :worker, updated_at = clock_timestamp(),
        lease_until = clock_timestamp() + make_interval(secs => :lease_seconds)
    FROM picked, submissions s
    WHERE b.batch_id = picked.batch_id AND b.tenant_id = picked.tenant_id
      AND s.submission_id = b.submission_id AND s.tenant_id = b.tenant_id
    RETURNING b.batch_id, b.tenant_id, b.campaign_id, b.submission_id, b.number, s.enqueue_number, b.epoch, b.attempts,
              b.retries, b.recipients, b.first_phone, b.last_phone, b.packed, s.text, s.sender, s.variable_names,
              s.reservation_id, s.snapshot_digest, s.traceparent, picked.reason,
              extract(epoch FROM clock_timestamp() - picked.not_before)::double precision AS waited_seconds
""")

# Rule 1. All that can have changed since the claim is asked here, in the statement whose commit allows the first byte:
# the lease (epoch), a cancel (state, flag), a pause, an operator's stop, a hold of the account or of the lane (but for
# its probe), and opt-outs that are newer than those the request was rendered without: only of numbers in the batch's
# range, so that one opt-out stops one batch and not a campaign of a million. OFFSET 0 keeps that search on
# opt_outs_newer, where it is one look that usually finds nothing; by number it would read every opt-out within the
# range.
_ARM = text(f"""
    WITH armed AS (
        UPDATE batches b
        SET state = {BatchState.ARMED}, attempt_id = :attempt_id, attempts = attempts + 1, traceparent = :traceparent,
            opted_out_positions = :opted_out_positions, updated_at = clock_timestamp(),
            lease_until = clock_timestamp() + make_interval(secs => :lease_seconds)
        WHERE b.batch_id = :batch_id AND b.tenant_id = :tenant_id
          AND b.state = {BatchState.LEASED} AND b.epoch = :epoch AND b.worker = :worker
          AND (b.not_after IS NULL OR b.not_after > clock_timestamp())
          AND NOT coalesce((
              SELECT c.paused OR c.cancelled FROM campaigns c
              WHERE c.campaign_id = b.campaign_id AND c.tenant_id = :tenant_id), false)
          AND NOT {is_arm_stopped("b")}
          AND NOT EXISTS (
              SELECT 1 FROM account_holds h
              WHERE h.traffic_account_id = :account AND h.held_since IS NOT NULL
                AND (h.tenant_id = '' OR (h.tenant_id = :tenant_id AND h.campaign_id = b.campaign_id))
                AND h.probe_id IS DISTINCT FROM CAST(:probe_id AS uuid))
          AND NOT EXISTS (
              SELECT 1 FROM (
                  SELECT o.phone FROM opt_outs o
                  WHERE o.tenant_id = :tenant_id AND o.version > :opt_out_version OFFSET 0
              ) newer
              WHERE newer.phone BETWEEN b.first_phone AND b.last_phone)
        RETURNING batch_id, tenant_id, attempts
    )
    INSERT INTO attempts (batch_id, tenant_id, number, epoch, attempt_id, worker, armed_at)
    SELECT batch_id, tenant_id, attempts, :epoch, :attempt_id, :worker, clock_timestamp() FROM armed
""")


_LEASED = text(f"""
    SELECT tenant_id, batch_id, epoch, campaign_id FROM batches WHERE state = {BatchState.LEASED} AND worker = :worker
""")


async def read_lanes(connection: AsyncConnection, account: str) -> list[LaneState]:
    """The lanes that are neither empty, paused nor stopped, urgent ones first; at most MAX_LANES."""
    rows = (await connection.execute(_LANES, {"account": account})).all()
    return [LaneState(Lane(row.priority, row.tenant_id, row.campaign_id), row.due_in_seconds) for row in rows]


async def claim(
    connection: AsyncConnection, lane: Lane, worker: str, lease: timedelta, *, account: str
) -> LeasedBatch | None:
    """Lease the lane's next due batch, to be sent by the traffic account; None when there is none."""
    check_transition(BatchState.READY, BatchState.LEASED)
    parameters = {
        "priority": lane.priority,
        "tenant_id": lane.tenant_id,
        "campaign_id": lane.campaign_id,
        "worker": worker,
        "lease_seconds": lease.total_seconds(),
        "account": account,
    }
    row = (await connection.execute(_CLAIM, parameters)).one_or_none()
    if row is None:
        return None
    fields: dict[str, Any] = row._asdict()
    fields["variable_names"] = tuple(fields["variable_names"])
    return LeasedBatch(**fields)


async def find_leased(connection: AsyncConnection, worker: str) -> list[LeasedId]:
    """What this worker holds in LEASED, whether it knows of it or not."""
    return [
        LeasedId(BatchKey(row.tenant_id, row.batch_id, row.epoch), row.campaign_id)
        for row in await connection.execute(_LEASED, {"worker": worker})
    ]


async def arm(
    connection: AsyncConnection,
    batch: BatchKey,
    worker: str,
    *,
    account: str,
    lease: timedelta,
    opt_out_version: int,
    opted_out_positions: bytes | None,
    traceparent: str,
    probe_id: UUID | None = None,
) -> bool:
    """LEASED → ARMED by compare-and-set, one statement, under the key's attempt; False: it must not be sent now.

    It is not this worker's any more, its campaign was paused or cancelled, an operator has stopped what it belongs to,
    one of its numbers has opted out since `opt_out_version` of the tenant's list, or the account or the lane is held,
    and `probe_id` is not of the present probe.
    """
    check_transition(BatchState.LEASED, BatchState.ARMED)
    parameters = batch.parameters() | {
        "worker": worker,
        "account": account,
        "lease_seconds": lease.total_seconds(),
        "opt_out_version": opt_out_version,
        "opted_out_positions": opted_out_positions,
        "traceparent": traceparent,
        "probe_id": probe_id,
    }
    return (await connection.execute(_ARM, parameters)).rowcount == 1
