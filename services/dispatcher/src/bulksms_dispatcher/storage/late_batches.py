"""Late batches: READY ones that shall not go out any more end as DEAD, with the report of it, in one statement."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.batches import NO_CAMPAIGN
from bulksms_dispatcher.domain.messages import MessageStatus
from bulksms_dispatcher.domain.outbox import OutboxKind
from bulksms_dispatcher.domain.protocol import BatchState, check_transition
from bulksms_dispatcher.domain.results import RecipientOutcome, encode_groups, whole

__all__ = ["OUTAGE", "TOO_LATE", "fail_late", "fail_stranded"]

TOO_LATE = "TOO_LATE"
OUTAGE = "OUTAGE"


# Of whatever tenant. What is LEASED is another's to move: its arm is refused, and it is found here once it is READY
# again. SKIP LOCKED: replicas and senders never wait for each other.
def _fail(reason: str, which: str) -> TextClause:
    return text(f"""
        WITH late AS (
            SELECT b.batch_id, b.tenant_id FROM batches b
            WHERE b.state = {BatchState.READY} AND {which} LIMIT :limit FOR UPDATE SKIP LOCKED
        ), failed AS (
            UPDATE batches b SET state = {BatchState.DEAD}, reason = '{reason}', updated_at = clock_timestamp()
            FROM late WHERE b.batch_id = late.batch_id AND b.tenant_id = late.tenant_id
            RETURNING b.batch_id, b.tenant_id, b.campaign_id, b.submission_id, b.epoch
        ), messages_failed AS (
            UPDATE messages m SET status = {MessageStatus.FAILED}, reason = '{reason}', updated_at = clock_timestamp()
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


_FAIL_LATE = _fail(TOO_LATE, "b.not_after <= clock_timestamp() ORDER BY b.not_after")
_IS_IN_OUTAGE = text("""
    SELECT EXISTS (
        SELECT 1 FROM account_holds
        WHERE traffic_account_id = :account AND failed_at >= held_since + make_interval(secs => :patience_seconds))
""")
# The account, or the lane, was bad for as long as the patience lasts, and was found so again at its end (while nobody
# could probe it, nothing is known of it), and the batch has waited as long. Who is paused waits for somebody else.
_FAIL_STRANDED = _fail(
    OUTAGE,
    """
    b.created_at < now() - make_interval(secs => :patience_seconds)
    AND EXISTS (
        SELECT 1 FROM account_holds h
        WHERE h.traffic_account_id = :account AND h.failed_at >= h.held_since + make_interval(secs => :patience_seconds)
          AND (h.tenant_id = '' OR (h.tenant_id = b.tenant_id AND h.campaign_id = b.campaign_id)))
    AND NOT EXISTS (
        SELECT 1 FROM campaigns c
        WHERE c.campaign_id = b.campaign_id AND c.tenant_id = b.tenant_id AND (c.paused OR c.cancelled))
    """,
)


async def fail_late(connection: AsyncConnection, limit: int) -> int:
    """End READY batches whose time (`not_after`) is over, at most `limit`; returns how many."""
    return await _end(connection, _FAIL_LATE, TOO_LATE, {"limit": limit})


async def fail_stranded(connection: AsyncConnection, account: str, patience: timedelta, limit: int) -> int:
    """End READY batches that have waited for so long for an account, or a lane of it, that is held; at most `limit`."""
    parameters: dict[str, object] = {"account": account, "patience_seconds": patience.total_seconds()}
    if not (await connection.execute(_IS_IN_OUTAGE, parameters)).scalar_one():
        return 0  # nearly always, and the batches are not looked at
    return await _end(connection, _FAIL_STRANDED, OUTAGE, parameters | {"limit": limit})


async def _end(connection: AsyncConnection, statement: TextClause, reason: str, parameters: dict[str, object]) -> int:
    check_transition(BatchState.READY, BatchState.DEAD)
    groups = encode_groups(whole(RecipientOutcome.FAILED, reason=reason))
    return int((await connection.execute(statement, parameters | {"none": NO_CAMPAIGN, "groups": groups})).scalar_one())
