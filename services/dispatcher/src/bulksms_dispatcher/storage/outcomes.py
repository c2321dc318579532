"""Outcomes: what a try came to, its attempt, its answer and the news for others, in one transaction (rule 6)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.batches import NO_CAMPAIGN
from bulksms_dispatcher.domain.protocol import BatchState, check_transition
from bulksms_dispatcher.domain.recipients import pack_ids
from bulksms_dispatcher.domain.results import Group, RecipientOutcome, encode_groups, whole
from bulksms_dispatcher.domain.settlements import Answered, Settlement, Tried
from bulksms_dispatcher.storage import campaigns, messages, refreshes, splits
from bulksms_dispatcher.storage.outbox import OutboxKind

__all__ = ["return_to_queue", "settle", "tell_part"]


# A batch of which evidence has named a recipient was accepted: no late refusal takes that back.
_SETTLE = text(f"""
    UPDATE batches
    SET state = :target, reason = :reason, bulk_id = :bulk_id, lease_until = NULL, worker = '',
        updated_at = clock_timestamp()
    WHERE batch_id = :batch_id AND epoch = :epoch AND state = ANY(:origins)
      AND (:target <> {BatchState.REJECTED} OR evidenced = 0)
    RETURNING campaign_id, submission_id, attempts
""")
_WHOSE = text("SELECT campaign_id, submission_id FROM batches WHERE batch_id = :batch_id")
_END_ATTEMPT = text("""
    UPDATE attempts
    SET ended_at = clock_timestamp(), outcome = :outcome, reason = :reason, http_status = :http_status,
        accepted = :accepted
    WHERE batch_id = :batch_id AND number = :number AND epoch = :epoch
""")
# Before arming, too, a try is a try: its connection failed.
_UNARMED_ATTEMPT = text("""
    WITH counted AS (
        UPDATE batches SET attempts = attempts + 1 WHERE batch_id = :batch_id RETURNING attempts
    )
    INSERT INTO attempts (batch_id, number, epoch, worker, ended_at, outcome, reason)
    SELECT :batch_id, attempts, :epoch, :worker, clock_timestamp(), :outcome, :reason FROM counted
""")
# A late answer takes the place of what was kept of the early one.
_ANSWER = text("""
    INSERT INTO answers (batch_id, epoch, http_status, bulk_id, first_message_id, message_ids, body)
    VALUES (:batch_id, :epoch, :http_status, :bulk_id, :first_message_id, :message_ids, :body)
    ON CONFLICT (batch_id, epoch) DO UPDATE
    SET http_status = excluded.http_status, bulk_id = excluded.bulk_id, first_message_id = excluded.first_message_id,
        message_ids = excluded.message_ids, body = excluded.body, received_at = clock_timestamp()
""")
_TELL = text("""
    INSERT INTO outbox (kind, batch_id, epoch, state, part, groups, message_ids, accepted, parts)
    VALUES (:kind, :batch_id, :epoch, :state, :part, :groups, :message_ids, :accepted, :parts)
    ON CONFLICT (batch_id, epoch, state, kind, part) DO NOTHING
""")
# The epoch rises whenever a batch goes back: whatever an earlier holder still writes finds another epoch.
_RETURN = text(f"""
    UPDATE batches
    SET state = {BatchState.READY}, epoch = epoch + 1, retries = retries + :retries, reason = :reason,
        not_before = clock_timestamp() + make_interval(secs => :delay_seconds), lease_until = NULL, worker = '',
        updated_at = clock_timestamp()
    WHERE batch_id = :batch_id AND epoch = :epoch AND state = ANY(:origins)
    RETURNING attempts
""")
_CANCEL_RETURNED = text(f"""
    UPDATE batches
    SET state = {BatchState.CANCELLED}, reason = 'CAMPAIGN_CANCELLED', updated_at = clock_timestamp()
    WHERE batch_id = :batch_id AND state = {BatchState.READY}
    RETURNING epoch
""")
# A worker that cannot know whether its arm was committed, and has sent nothing, takes the attempt back with the batch.
_END_OPEN_ATTEMPT = text("""
    UPDATE attempts SET ended_at = clock_timestamp(), outcome = 'NOT_SENT', reason = 'NOT_ARMED'
    WHERE batch_id = :batch_id AND epoch = :epoch AND ended_at IS NULL
""")


async def settle(
    connection: AsyncConnection,
    batch_id: UUID,
    epoch: int,
    origins: Collection[BatchState],
    settlement: Settlement,
) -> bool:
    """Move a batch to where its try has brought it; False when it is in none of `origins` under this epoch."""
    for origin in origins:
        check_transition(origin, settlement.target)
    answered, tried, deferred = settlement.answered, settlement.tried, settlement.deferred
    number, cancelled = 0, False
    if deferred is not None:
        campaign_id, submission_id = (await connection.execute(_WHOSE, {"batch_id": batch_id})).one()
        cancelled = (await campaigns.lock_shared(connection, campaign_id)).cancelled
        number = await splits.lock_number(connection, submission_id)
    row = (
        await connection.execute(
            _SETTLE,
            {
                "batch_id": batch_id,
                "epoch": epoch,
                "origins": [int(origin) for origin in origins],
                "target": settlement.target,
                "reason": settlement.reason,
                "bulk_id": answered.bulk_id if answered else "",
            },
        )
    ).one_or_none()
    if row is None:
        return False
    if tried is not None:
        await _write_attempt(
            connection, batch_id, epoch, row.attempts, tried, settlement.accepted, armed=_is_armed(origins)
        )
    if settlement.target is BatchState.ACCEPTED:
        await refreshes.add(connection, batch_id)
    if answered is not None:
        await _write_answer(connection, batch_id, epoch, answered)
    if row.campaign_id == NO_CAMPAIGN:
        vouched = settlement.vouched.message_ids if settlement.vouched else ()
        ids = answered.message_ids if answered else vouched
        await messages.settle(connection, row.submission_id, settlement.groups[0], ids[0] if ids else None)
    if deferred is not None:
        new_id = await splits.insert(
            connection,
            batch_id,
            row.submission_id,
            number,
            deferred.recipients,
            reason=deferred.reason,
            delay=deferred.delay,
            later_epochs=1,
            retries=1,
        )
        if cancelled:
            await _cancel_returned(connection, new_id)
    await _tell(connection, batch_id, epoch, settlement, is_single_message=row.campaign_id == NO_CAMPAIGN)
    return True


async def return_to_queue(
    connection: AsyncConnection,
    batch_id: UUID,
    epoch: int,
    campaign_id: UUID,
    origins: Collection[BatchState],
    *,
    delay: timedelta = timedelta(0),
    reason: str = "",
    tried: Tried | None = None,
    costs_retry: bool = False,
) -> bool:
    """Make a provably unsent batch READY again, or CANCELLED when its campaign is; False when it is not ours."""
    for origin in origins:
        check_transition(origin, BatchState.READY)
    flags = await campaigns.lock_shared(connection, campaign_id)
    row = (
        await connection.execute(
            _RETURN,
            {
                "batch_id": batch_id,
                "epoch": epoch,
                "origins": [int(origin) for origin in origins],
                "delay_seconds": delay.total_seconds(),
                "reason": tried.reason if tried else reason,
                "retries": int(costs_retry),
            },
        )
    ).one_or_none()
    if row is None:
        return False
    if tried is not None:
        await _write_attempt(connection, batch_id, epoch, row.attempts, tried, 0, armed=_is_armed(origins))
    elif BatchState.ARMED in origins:
        await connection.execute(_END_OPEN_ATTEMPT, {"batch_id": batch_id, "epoch": epoch})
    if flags.cancelled:
        await _cancel_returned(connection, batch_id)
    return True


async def tell_part(
    connection: AsyncConnection,
    batch_id: UUID,
    epoch: int,
    state: BatchState,
    part: int,
    positions: Sequence[int],
    message_ids: Sequence[str],
    *,
    campaign: bool,
    captured: bool,
) -> None:
    """Queue the news that some recipients of a batch were accepted; `part` tells such news of one batch apart."""
    group = Group(RecipientOutcome.ACCEPTED, positions=tuple(positions))
    entry = {
        "batch_id": batch_id,
        "epoch": epoch,
        "state": state,
        "part": part,
        "message_ids": pack_ids(message_ids),
        "accepted": len(positions),
        "parts": 0,
    }
    if campaign:
        await connection.execute(_TELL, entry | {"kind": OutboxKind.CAMPAIGN, "groups": encode_groups([group])})
    if captured:
        await connection.execute(_TELL, entry | {"kind": OutboxKind.CAPTURE, "groups": None})


async def _cancel_returned(connection: AsyncConnection, batch_id: UUID) -> None:
    check_transition(BatchState.READY, BatchState.CANCELLED)
    epoch = (await connection.execute(_CANCEL_RETURNED, {"batch_id": batch_id})).scalar_one()
    groups = whole(RecipientOutcome.CANCELLED, reason="CAMPAIGN_CANCELLED")
    await _tell(connection, batch_id, epoch, Settlement(BatchState.CANCELLED, groups), is_single_message=False)


def _is_armed(origins: Collection[BatchState]) -> bool:
    return BatchState.LEASED not in origins


async def _write_attempt(
    connection: AsyncConnection,
    batch_id: UUID,
    epoch: int,
    number: int,
    tried: Tried,
    accepted: int,
    *,
    armed: bool,
) -> None:
    values = {"batch_id": batch_id, "epoch": epoch, "outcome": tried.outcome.value, "reason": tried.reason}
    if armed:
        values |= {"number": number, "http_status": tried.http_status, "accepted": accepted}
        await connection.execute(_END_ATTEMPT, values)
    else:
        await connection.execute(_UNARMED_ATTEMPT, values | {"worker": tried.worker})


async def _write_answer(connection: AsyncConnection, batch_id: UUID, epoch: int, answered: Answered) -> None:
    ids = answered.message_ids
    await connection.execute(
        _ANSWER,
        {
            "batch_id": batch_id,
            "epoch": epoch,
            "http_status": answered.http_status,
            "bulk_id": answered.bulk_id or None,
            "first_message_id": ids[0] if ids else None,
            "message_ids": pack_ids(ids) if ids else None,
            "body": answered.body or None,
        },
    )


async def _tell(
    connection: AsyncConnection,
    batch_id: UUID,
    epoch: int,
    settlement: Settlement,
    *,
    is_single_message: bool,
) -> None:
    """Queue what the campaign service and the ledger must hear."""
    ids = settlement.vouched.message_ids if settlement.vouched else ()
    entry = {
        "batch_id": batch_id,
        "epoch": epoch,
        "state": settlement.target,
        "part": 0,
        "message_ids": pack_ids(ids) if ids else None,
        "accepted": settlement.accepted,
        "parts": settlement.parts,
    }
    if is_single_message:
        # While it is ambiguous its credit stays held; then captured or given back with the reservation.
        if settlement.target is not BatchState.AMBIGUOUS:
            await connection.execute(_TELL, entry | {"kind": OutboxKind.MESSAGE_CREDIT, "groups": None})
        return
    news = [entry | {"kind": OutboxKind.CAMPAIGN, "groups": encode_groups(settlement.groups)}]
    if settlement.accepted:
        news.append(entry | {"kind": OutboxKind.CAPTURE, "groups": None})
    await connection.execute(_TELL, news)
