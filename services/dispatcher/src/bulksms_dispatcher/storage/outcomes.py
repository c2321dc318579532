"""Outcomes: what an attempt came to, the response and the reports for others, in one transaction (rule 6)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.batch_outcomes import AttemptResult, BatchOutcome, StoredResponse
from bulksms_dispatcher.domain.batches import NO_CAMPAIGN
from bulksms_dispatcher.domain.outbox import OutboxKind
from bulksms_dispatcher.domain.protocol import BatchState, check_transition
from bulksms_dispatcher.domain.recipients import pack_ids
from bulksms_dispatcher.domain.results import Group, RecipientOutcome, encode_groups, whole
from bulksms_dispatcher.storage import campaigns, messages, report_refreshes, splits

__all__ = ["record", "report_part", "return_to_queue"]


# A batch of which evidence has named a recipient was accepted: no late rejection takes that back.
_RECORD = text(f"""
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
# Before arming, too, an attempt is an attempt: its connection failed.
_UNARMED_ATTEMPT = text("""
    WITH counted AS (
        UPDATE batches SET attempts = attempts + 1 WHERE batch_id = :batch_id RETURNING attempts
    )
    INSERT INTO attempts (batch_id, number, epoch, worker, ended_at, outcome, reason)
    SELECT :batch_id, attempts, :epoch, :worker, clock_timestamp(), :outcome, :reason FROM counted
""")
# A late response takes the place of what was kept of the early one.
_SAVE_RESPONSE = text("""
    INSERT INTO provider_responses (batch_id, epoch, http_status, bulk_id, first_message_id, message_ids, body)
    VALUES (:batch_id, :epoch, :http_status, :bulk_id, :first_message_id, :message_ids, :body)
    ON CONFLICT (batch_id, epoch) DO UPDATE
    SET http_status = excluded.http_status, bulk_id = excluded.bulk_id, first_message_id = excluded.first_message_id,
        message_ids = excluded.message_ids, body = excluded.body, received_at = clock_timestamp()
""")
_REPORT = text("""
    INSERT INTO outbox (kind, batch_id, epoch, state, part, groups, message_ids, accepted, parts)
    VALUES (:kind, :batch_id, :epoch, :state, :part, :groups, :message_ids, :accepted, :parts)
    ON CONFLICT (batch_id, epoch, state, kind, part) DO NOTHING
""")
# The epoch rises whenever a batch goes back: whatever an earlier worker still writes finds another epoch.
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


async def record(
    connection: AsyncConnection,
    batch_id: UUID,
    epoch: int,
    origins: Collection[BatchState],
    outcome: BatchOutcome,
) -> bool:
    """Move a batch to where its attempt has brought it; False when it is in none of `origins` under this epoch."""
    for origin in origins:
        check_transition(origin, outcome.target)
    response, attempt, deferred = outcome.response, outcome.attempt, outcome.deferred
    number, cancelled = 0, False
    if deferred is not None:
        campaign_id, submission_id = (await connection.execute(_WHOSE, {"batch_id": batch_id})).one()
        cancelled = (await campaigns.lock_shared(connection, campaign_id)).cancelled
        number = await splits.lock_number(connection, submission_id)
    row = (
        await connection.execute(
            _RECORD,
            {
                "batch_id": batch_id,
                "epoch": epoch,
                "origins": [int(origin) for origin in origins],
                "target": outcome.target,
                "reason": outcome.reason,
                "bulk_id": response.bulk_id if response else "",
            },
        )
    ).one_or_none()
    if row is None:
        return False
    if attempt is not None:
        await _write_attempt(
            connection, batch_id, epoch, row.attempts, attempt, outcome.accepted, armed=_is_armed(origins)
        )
    if outcome.target is BatchState.ACCEPTED:
        await report_refreshes.add(connection, batch_id)
    if response is not None:
        await _write_response(connection, batch_id, epoch, response)
    if row.campaign_id == NO_CAMPAIGN:
        confirmed = outcome.confirmed.message_ids if outcome.confirmed else ()
        ids = response.message_ids if response else confirmed
        await messages.record_outcome(connection, row.submission_id, outcome.groups[0], ids[0] if ids else None)
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
    await _queue_reports(connection, batch_id, epoch, outcome, is_single_message=row.campaign_id == NO_CAMPAIGN)
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
    attempt: AttemptResult | None = None,
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
                "reason": attempt.reason if attempt else reason,
                "retries": int(costs_retry),
            },
        )
    ).one_or_none()
    if row is None:
        return False
    if attempt is not None:
        await _write_attempt(connection, batch_id, epoch, row.attempts, attempt, 0, armed=_is_armed(origins))
    elif BatchState.ARMED in origins:
        await connection.execute(_END_OPEN_ATTEMPT, {"batch_id": batch_id, "epoch": epoch})
    if flags.cancelled:
        await _cancel_returned(connection, batch_id)
    return True


async def report_part(
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
    """Queue the report that some recipients of a batch were accepted; `part` numbers such reports of one batch."""
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
        await connection.execute(_REPORT, entry | {"kind": OutboxKind.CAMPAIGN, "groups": encode_groups([group])})
    if captured:
        await connection.execute(_REPORT, entry | {"kind": OutboxKind.CAPTURE, "groups": None})


async def _cancel_returned(connection: AsyncConnection, batch_id: UUID) -> None:
    check_transition(BatchState.READY, BatchState.CANCELLED)
    epoch = (await connection.execute(_CANCEL_RETURNED, {"batch_id": batch_id})).scalar_one()
    groups = whole(RecipientOutcome.CANCELLED, reason="CAMPAIGN_CANCELLED")
    await _queue_reports(
        connection, batch_id, epoch, BatchOutcome(BatchState.CANCELLED, groups), is_single_message=False
    )


def _is_armed(origins: Collection[BatchState]) -> bool:
    return BatchState.LEASED not in origins


async def _write_attempt(
    connection: AsyncConnection,
    batch_id: UUID,
    epoch: int,
    number: int,
    attempt: AttemptResult,
    accepted: int,
    *,
    armed: bool,
) -> None:
    values = {"batch_id": batch_id, "epoch": epoch, "outcome": attempt.outcome.value, "reason": attempt.reason}
    if armed:
        values |= {"number": number, "http_status": attempt.http_status, "accepted": accepted}
        await connection.execute(_END_ATTEMPT, values)
    else:
        await connection.execute(_UNARMED_ATTEMPT, values | {"worker": attempt.worker})


async def _write_response(connection: AsyncConnection, batch_id: UUID, epoch: int, response: StoredResponse) -> None:
    ids = response.message_ids
    await connection.execute(
        _SAVE_RESPONSE,
        {
            "batch_id": batch_id,
            "epoch": epoch,
            "http_status": response.http_status,
            "bulk_id": response.bulk_id or None,
            "first_message_id": ids[0] if ids else None,
            "message_ids": pack_ids(ids) if ids else None,
            "body": response.body or None,
        },
    )


async def _queue_reports(
    connection: AsyncConnection,
    batch_id: UUID,
    epoch: int,
    outcome: BatchOutcome,
    *,
    is_single_message: bool,
) -> None:
    """Queue what the campaign service and the ledger must receive."""
    ids = outcome.confirmed.message_ids if outcome.confirmed else ()
    entry = {
        "batch_id": batch_id,
        "epoch": epoch,
        "state": outcome.target,
        "part": 0,
        "message_ids": pack_ids(ids) if ids else None,
        "accepted": outcome.accepted,
        "parts": outcome.parts,
    }
    if is_single_message:
        # While it is ambiguous its credit stays reserved; then captured or given back with the reservation.
        if outcome.target is not BatchState.AMBIGUOUS:
            await connection.execute(_REPORT, entry | {"kind": OutboxKind.MESSAGE_CREDIT, "groups": None})
        return
    reports = [entry | {"kind": OutboxKind.CAMPAIGN, "groups": encode_groups(outcome.groups)}]
    if outcome.accepted:
        reports.append(entry | {"kind": OutboxKind.CAPTURE, "groups": None})
    await connection.execute(_REPORT, reports)
