"""Late batches: READY ones whose time is over (`not_after`) end as DEAD, with the report of it, in one statement."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.batches import NO_CAMPAIGN
from bulksms_dispatcher.domain.messages import MessageStatus
from bulksms_dispatcher.domain.outbox import OutboxKind
from bulksms_dispatcher.domain.protocol import BatchState, check_transition
from bulksms_dispatcher.domain.results import RecipientOutcome, encode_groups, whole

__all__ = ["TOO_LATE", "fail_late"]

TOO_LATE = "TOO_LATE"

# Of whatever tenant: time is over for all of them. What is LEASED is another's to move: its arm is refused, and it is
# found here once it is READY again. SKIP LOCKED: replicas and senders never wait for each other.
_FAIL = text(f"""
    WITH late AS (
        SELECT batch_id, tenant_id FROM batches
        WHERE state = {BatchState.READY} AND not_after <= clock_timestamp()
        ORDER BY not_after LIMIT :limit FOR UPDATE SKIP LOCKED
    ), failed AS (
        UPDATE batches b SET state = {BatchState.DEAD}, reason = '{TOO_LATE}', updated_at = clock_timestamp()
        FROM late WHERE b.batch_id = late.batch_id AND b.tenant_id = late.tenant_id
        RETURNING b.batch_id, b.tenant_id, b.campaign_id, b.submission_id, b.epoch
    ), messages_failed AS (
        UPDATE messages m SET status = {MessageStatus.FAILED}, reason = '{TOO_LATE}', updated_at = clock_timestamp()
        FROM failed f WHERE m.message_id = f.submission_id AND m.tenant_id = f.tenant_id AND f.campaign_id = :none
    ), reported AS (
        INSERT INTO outbox (kind, batch_id, tenant_id, epoch, state, groups)
        SELECT CASE campaign_id WHEN :none THEN {OutboxKind.MESSAGE_CREDIT} ELSE {OutboxKind.CAMPAIGN} END,
               batch_id, tenant_id, epoch, {BatchState.DEAD},
               CASE WHEN campaign_id <> :none THEN CAST(:groups AS bytea) END
        FROM failed
    )
    SELECT count(*) FROM failed
""")


async def fail_late(connection: AsyncConnection, limit: int) -> int:
    """End READY batches whose time is over, at most `limit`; returns how many."""
    check_transition(BatchState.READY, BatchState.DEAD)
    groups = encode_groups(whole(RecipientOutcome.FAILED, reason=TOO_LATE))
    parameters = {"limit": limit, "none": NO_CAMPAIGN, "groups": groups}
    return int((await connection.execute(_FAIL, parameters)).scalar_one())
