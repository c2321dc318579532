"""Campaigns as the queue knows them: paused, cancelled, or neither."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.outbox import OutboxKind
from bulksms_dispatcher.domain.protocol import BatchState, check_transition
from bulksms_dispatcher.domain.results import RecipientOutcome, encode_groups, whole

__all__ = ["CampaignFlags", "Cancellation", "cancel", "count_batches", "ensure", "lock_shared", "set_paused"]

# Lock order everywhere: the campaign's row, then submissions, then batches.


@dataclass(frozen=True, slots=True)
class CampaignFlags:
    """What stops a campaign's batches."""

    paused: bool
    cancelled: bool


@dataclass(frozen=True, slots=True)
class Cancellation:
    """What a cancel found."""

    cancelled_recipients: int
    in_flight: int
    submitted_recipients: int


_ENSURE = text(
    "INSERT INTO campaigns (campaign_id, tenant_id) VALUES (:campaign_id, :tenant_id) ON CONFLICT DO NOTHING"
)
_LOCK_SHARED = text(
    "SELECT paused, cancelled FROM campaigns WHERE campaign_id = :campaign_id AND tenant_id = :tenant_id FOR SHARE"
)
_SET_PAUSED = text("""
    INSERT INTO campaigns (campaign_id, tenant_id, paused) VALUES (:campaign_id, :tenant_id, :paused)
    ON CONFLICT (campaign_id, tenant_id) DO UPDATE SET paused = :paused, updated_at = clock_timestamp()
""")
_SET_CANCELLED = text("""
    INSERT INTO campaigns (campaign_id, tenant_id, cancelled) VALUES (:campaign_id, :tenant_id, true)
    ON CONFLICT (campaign_id, tenant_id) DO UPDATE SET cancelled = true, updated_at = clock_timestamp()
""")
# Rule 7: cancel takes READY and LEASED. A worker that holds the lease finds out when it arms.
_CANCEL_BATCHES = text(f"""
    WITH cancelled AS (
        UPDATE batches
        SET state = {BatchState.CANCELLED}, reason = 'CAMPAIGN_CANCELLED', lease_until = NULL, worker = '',
            updated_at = clock_timestamp()
        WHERE campaign_id = :campaign_id AND tenant_id = :tenant_id
          AND state IN ({BatchState.READY}, {BatchState.LEASED})
        RETURNING batch_id, tenant_id, epoch, recipients
    ), reported AS (
        INSERT INTO outbox (kind, batch_id, tenant_id, epoch, state, groups)
        SELECT {OutboxKind.CAMPAIGN}, batch_id, tenant_id, epoch, {BatchState.CANCELLED}, :groups FROM cancelled
    )
    SELECT coalesce(sum(recipients), 0)::bigint FROM cancelled
""")
_COUNT = text("""
    SELECT count(*) FROM batches
    WHERE campaign_id = :campaign_id AND tenant_id = :tenant_id AND state = ANY(:states)
""")
_SUBMITTED = text("""
    SELECT coalesce(sum(next_index), 0)::bigint FROM submissions
    WHERE campaign_id = :campaign_id AND tenant_id = :tenant_id
""")


async def ensure(connection: AsyncConnection, tenant_id: str, campaign_id: UUID) -> None:
    """See that there is a row to lock."""
    await connection.execute(_ENSURE, {"campaign_id": campaign_id, "tenant_id": tenant_id})


async def lock_shared(connection: AsyncConnection, tenant_id: str, campaign_id: UUID) -> CampaignFlags:
    """Read the flags; they stay as they are until the transaction ends."""
    row = (await connection.execute(_LOCK_SHARED, {"tenant_id": tenant_id, "campaign_id": campaign_id})).one_or_none()
    return CampaignFlags(False, False) if row is None else CampaignFlags(*row)


async def set_paused(connection: AsyncConnection, tenant_id: str, campaign_id: UUID, *, paused: bool) -> None:
    """Stop or allow claims; batches under way are not touched."""
    await connection.execute(_SET_PAUSED, {"campaign_id": campaign_id, "tenant_id": tenant_id, "paused": paused})


async def count_batches(connection: AsyncConnection, tenant_id: str, campaign_id: UUID, *states: BatchState) -> int:
    """The campaign's batches in these states."""
    parameters = {"tenant_id": tenant_id, "campaign_id": campaign_id, "states": [int(state) for state in states]}
    return int((await connection.execute(_COUNT, parameters)).scalar_one())


async def cancel(connection: AsyncConnection, tenant_id: str, campaign_id: UUID) -> Cancellation:
    """Cancel for good all that is not armed, and queue the report for the campaign service."""
    for origin in (BatchState.READY, BatchState.LEASED):
        check_transition(origin, BatchState.CANCELLED)
    await connection.execute(_SET_CANCELLED, {"campaign_id": campaign_id, "tenant_id": tenant_id})
    groups = encode_groups(whole(RecipientOutcome.CANCELLED, reason="CAMPAIGN_CANCELLED"))
    campaign = {"tenant_id": tenant_id, "campaign_id": campaign_id}
    cancelled = (await connection.execute(_CANCEL_BATCHES, campaign | {"groups": groups})).scalar_one()
    submitted = (await connection.execute(_SUBMITTED, campaign)).scalar_one()
    in_flight = await count_batches(connection, tenant_id, campaign_id, BatchState.ARMED)
    return Cancellation(int(cancelled), in_flight, int(submitted))
