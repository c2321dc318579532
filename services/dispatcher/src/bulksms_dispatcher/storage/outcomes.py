"""Outcomes: what an attempt came to, the response and the results for others, in one transaction (rule 6)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.batch_outcomes import AttemptResult, BatchOutcome, Return
from bulksms_dispatcher.domain.batches import NO_CAMPAIGN, BatchKey, LeasedBatch
from bulksms_dispatcher.domain.protocol import BatchState, check_transition
from bulksms_dispatcher.domain.recipients import Recipients
from bulksms_dispatcher.domain.results import RecipientOutcome, whole
from bulksms_dispatcher.storage import (
    attempts,
    campaigns,
    messages,
    provider_responses,
    report_refreshes,
    results,
    splits,
)

__all__ = ["record", "return_divided", "return_to_queue"]

# A batch of which evidence has named a recipient was accepted: no late rejection takes that back.
_RECORD = text(f"""
    UPDATE batches
    SET state = :target, reason = :reason, bulk_id = :bulk_id, lease_until = NULL, worker = '',
        updated_at = clock_timestamp()
    WHERE batch_id = :batch_id AND tenant_id = :tenant_id AND epoch = :epoch AND state = ANY(:origins)
      AND (state = {BatchState.LEASED} OR attempt_id = :attempt_id)
      AND (:target <> {BatchState.REJECTED} OR evidenced = 0)
    RETURNING campaign_id, submission_id, attempts
""")
_WHOSE = text("SELECT campaign_id, submission_id FROM batches WHERE batch_id = :batch_id AND tenant_id = :tenant_id")
# The epoch rises whenever a batch goes back: whatever an earlier worker still writes finds another epoch. A database
# that was set back repeats epochs, so what is armed is changed only under the attempt that armed it.
_RETURN = text(f"""
    UPDATE batches
    SET state = {BatchState.READY}, epoch = epoch + 1, retries = retries + :retries, reason = :reason,
        not_before = clock_timestamp() + make_interval(secs => :delay_seconds), lease_until = NULL, worker = '',
        updated_at = clock_timestamp()
    WHERE batch_id = :batch_id AND tenant_id = :tenant_id AND epoch = :epoch AND state = ANY(:origins)
      AND (state = {BatchState.LEASED} OR attempt_id = :attempt_id)
    RETURNING attempts
""")
_CANCEL_RETURNED = text(f"""
    UPDATE batches
    SET state = {BatchState.CANCELLED}, reason = 'CAMPAIGN_CANCELLED', updated_at = clock_timestamp()
    WHERE batch_id = :batch_id AND tenant_id = :tenant_id AND state = {BatchState.READY}
    RETURNING epoch
""")


async def record(
    connection: AsyncConnection, batch: BatchKey, origins: Collection[BatchState], outcome: BatchOutcome
) -> bool:
    """Move a batch to where its attempt has brought it; False when it is in none of `origins` under this epoch."""
    for origin in origins:
        check_transition(origin, outcome.target)
    if outcome.deferred is None:
        return await _record(connection, batch, origins, outcome)
    # Locks in the order used everywhere: campaign, submission, batch.
    campaign_id, submission_id = (await connection.execute(_WHOSE, batch.parameters())).one()
    cancelled = (await campaigns.lock_shared(connection, batch.tenant_id, campaign_id)).cancelled
    number = await splits.lock_number(connection, batch.tenant_id, submission_id)
    if not await _record(connection, batch, origins, outcome):
        return False
    rest = await splits.insert(
        connection,
        batch,
        submission_id,
        number,
        outcome.deferred.recipients,
        reason=outcome.deferred.reason,
        delay=outcome.deferred.delay,
        later_epochs=1,
        retries=int(outcome.deferred.costs_retry),
    )
    if cancelled:
        await _cancel_returned(connection, rest)
    return True


async def return_to_queue(
    connection: AsyncConnection,
    batch: BatchKey,
    campaign_id: UUID,
    origins: Collection[BatchState],
    returned: Return = Return(),  # noqa: B008 - immutable
) -> bool:
    """Make a provably unsent batch READY again, or CANCELLED when its campaign is; False when it is not ours."""
    for origin in origins:
        check_transition(origin, BatchState.READY)
    flags = await campaigns.lock_shared(connection, batch.tenant_id, campaign_id)
    parameters = {
        "origins": [int(origin) for origin in origins],
        "delay_seconds": returned.delay.total_seconds(),
        "reason": returned.attempt.reason if returned.attempt else returned.reason,
        "retries": int(returned.costs_retry),
    }
    row = (await connection.execute(_RETURN, batch.parameters() | parameters)).one_or_none()
    if row is None:
        return False
    if returned.attempt is not None:
        await _write_attempt(connection, batch, row.attempts, returned.attempt, 0, armed=_is_armed(origins))
    elif BatchState.ARMED in origins:
        await attempts.end_open(connection, batch)
    if flags.cancelled:
        await _cancel_returned(connection, batch)
    return True


async def return_divided(
    connection: AsyncConnection, batch: LeasedBatch, kept: Recipients, others: Recipients, reason: str
) -> bool:
    """Make an armed batch of which nothing was sent READY again in two parts; False when it is not ours."""
    flags = await campaigns.lock_shared(connection, batch.tenant_id, batch.campaign_id)
    number = await splits.lock_number(connection, batch.tenant_id, batch.submission_id)
    returned = Return(reason=reason)
    if not await return_to_queue(connection, batch.key, batch.campaign_id, (BatchState.ARMED,), returned):
        return False
    back = replace(batch.key, epoch=batch.epoch + 1)
    await splits.shrink(connection, back, kept)
    rest = await splits.insert(connection, back, batch.submission_id, number, others, reason=reason, delay=timedelta(0))
    if flags.cancelled:
        await _cancel_returned(connection, rest)
    return True


async def _record(
    connection: AsyncConnection, batch: BatchKey, origins: Collection[BatchState], outcome: BatchOutcome
) -> bool:
    """True when it was recorded, with all that hangs on it."""
    response = outcome.response
    parameters = {
        "origins": [int(origin) for origin in origins],
        "target": outcome.target,
        "reason": outcome.reason,
        "bulk_id": response.bulk_id if response else "",
    }
    row = (await connection.execute(_RECORD, batch.parameters() | parameters)).one_or_none()
    if row is None:
        return False
    if outcome.attempt is not None:
        armed = _is_armed(origins)
        await _write_attempt(connection, batch, row.attempts, outcome.attempt, outcome.accepted, armed=armed)
    if outcome.target is BatchState.ACCEPTED:
        await report_refreshes.add(connection, batch)
    if response is not None:
        await provider_responses.save(connection, batch, response)
    is_single_message = row.campaign_id == NO_CAMPAIGN
    if is_single_message:
        confirmed = outcome.confirmed.message_ids if outcome.confirmed else ()
        ids = response.message_ids if response else confirmed
        await messages.record_outcome(
            connection, batch.tenant_id, row.submission_id, outcome.groups[0], ids[0] if ids else None
        )
    await results.queue(connection, batch, outcome, is_single_message=is_single_message)
    return True


async def _cancel_returned(connection: AsyncConnection, batch: BatchKey) -> None:
    check_transition(BatchState.READY, BatchState.CANCELLED)
    epoch = (await connection.execute(_CANCEL_RETURNED, batch.parameters())).scalar_one()
    groups = whole(RecipientOutcome.CANCELLED, reason="CAMPAIGN_CANCELLED")
    cancelled = BatchKey(batch.tenant_id, batch.batch_id, epoch)
    await results.queue(connection, cancelled, BatchOutcome(BatchState.CANCELLED, groups), is_single_message=False)


def _is_armed(origins: Collection[BatchState]) -> bool:
    return BatchState.LEASED not in origins


async def _write_attempt(
    connection: AsyncConnection, batch: BatchKey, number: int, result: AttemptResult, accepted: int, *, armed: bool
) -> None:
    if armed:
        await attempts.end(connection, batch, number, result, accepted)
    else:
        await attempts.add_unarmed(connection, batch, result)
