"""The recorder: what became of a batch, written down whatever the database does in the meantime."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import count
from typing import TypeVar

from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.batch_outcomes import AttemptResult, BatchOutcome, Deferred, StoredResponse
from bulksms_dispatcher.domain.batches import LeasedBatch
from bulksms_dispatcher.domain.protocol import BatchState, OutcomeKind
from bulksms_dispatcher.domain.provider_outcomes import FollowUp, Verdict
from bulksms_dispatcher.domain.recipients import unpack
from bulksms_dispatcher.domain.results import RecipientOutcome, whole
from bulksms_dispatcher.domain.retries import RetryPolicy
from bulksms_dispatcher.domain.verdicts import Transition, groups_of, is_retryable_rejection, transition_after
from bulksms_dispatcher.metrics import Metrics
from bulksms_dispatcher.pacing.limiter import Limiter, PacingUnavailable
from bulksms_dispatcher.storage import outcomes
from servicekit import logs
from servicekit.backoff import Backoff
from servicekit.database import Database, DatabaseUnavailable

__all__ = ["DATABASE_ERRORS", "Recorder"]

T = TypeVar("T")

DATABASE_ERRORS = (SQLAlchemyError, DatabaseUnavailable, OSError, TimeoutError)
"""What a statement can fail with when the database is away, slow or restarted."""

# An outcome that is known is not given up: the sender waits with it, and takes nothing new meanwhile.
_OUTCOME_PATIENCE = timedelta(hours=1)
# A batch that is not handed back is found by the reaper, a little later.
_HAND_BACK_PATIENCE = timedelta(seconds=5)
_DATABASE_BACKOFF = Backoff(timedelta(seconds=0.1), longest=timedelta(seconds=2))
_MAX_BODY = 64 * 1024
_log = logs.get_logger("bulksms.dispatcher.recorder")


class Recorder:
    """Writes outcomes; every write is a compare-and-set, so repeating one whose reply was lost is harmless."""

    def __init__(
        self,
        database: Database,
        limiter: Limiter,
        metrics: Metrics,
        *,
        worker: str,
        retry_policy: RetryPolicy,
        account_pause: timedelta,
        retryable_rejections: Sequence[str] = (),
        on_recorded: Callable[[LeasedBatch], None],
        on_returned: Callable[[LeasedBatch, timedelta], None],
    ) -> None:
        self._database = database
        self._limiter = limiter
        self._metrics = metrics
        self._worker = worker
        self._retry_policy = retry_policy
        self._account_pause = account_pause
        self._retryable_rejections = retryable_rejections
        self._on_recorded = on_recorded
        self._on_returned = on_returned

    async def hand_back(self, batch: LeasedBatch, *, delay: timedelta = timedelta(0), reason: str = "") -> None:
        """Make a batch that was not armed READY again; costs no retry."""
        await self._return(batch, (BatchState.LEASED,), _HAND_BACK_PATIENCE, delay=delay, reason=reason)

    async def hand_back_unsent(self, batch: LeasedBatch, opted_out_positions: Sequence[int]) -> None:
        """The same when nobody knows whether the arm was committed. Nothing was sent, and only this worker knows that.

        If the reaper was first the batch is ambiguous: that is over, but it is never sent again (rule 5).
        """
        returned = await self._return(batch, (BatchState.LEASED, BatchState.ARMED), _OUTCOME_PATIENCE)
        if returned is False:
            reason = OutcomeKind.NOT_SENT.value
            outcome = BatchOutcome(
                BatchState.REJECTED,
                whole(RecipientOutcome.FAILED, opted_out_positions, reason=reason),
                attempt=AttemptResult(OutcomeKind.NOT_SENT, reason),
                reason=reason,
            )
            if await self._record(batch, (BatchState.AMBIGUOUS,), outcome, _OUTCOME_PATIENCE):
                _log.error("batch not sent: it was ambiguous first", batch_id=str(batch.batch_id))

    async def mark_ambiguous(self, batch: LeasedBatch, reason: str, opted_out_positions: Sequence[int]) -> None:
        """ARMED → AMBIGUOUS; when that cannot be written, the reaper does it once the lease is over."""
        outcome = BatchOutcome(
            BatchState.AMBIGUOUS,
            whole(RecipientOutcome.AMBIGUOUS, opted_out_positions, reason=reason),
            attempt=AttemptResult(OutcomeKind.AMBIGUOUS, reason),
            reason=reason,
        )
        await self._record(batch, (BatchState.ARMED,), outcome, _HAND_BACK_PATIENCE)

    async def record_all_opted_out(self, batch: LeasedBatch) -> None:
        """Everyone in it has opted out: there is nothing to send."""
        groups = whole(RecipientOutcome.OPTED_OUT, reason="OPTED_OUT")
        outcome = BatchOutcome(BatchState.CANCELLED, groups, reason="OPTED_OUT")
        await self._record(batch, (BatchState.LEASED,), outcome, _HAND_BACK_PATIENCE)

    async def record(
        self, batch: LeasedBatch, verdict: Verdict, opted_out_positions: Sequence[int], parts: Sequence[int]
    ) -> bool:
        """Write what an attempt came to, and what follows from it; False when the database was away for too long."""
        transition = transition_after(verdict, batch.retries, self._retry_policy, self._account_pause)
        self._report(batch, verdict, transition)
        if transition.account_rest is not None:
            await self._rest(transition.account_rest, slower=transition.slows_account)
        attempt = AttemptResult(verdict.kind, verdict.reason, verdict.http_status, self._worker)
        origin = BatchState.LEASED if verdict.kind is OutcomeKind.NOT_SENT else BatchState.ARMED
        if transition.target is BatchState.READY:
            recorded = await self._return(
                batch,
                (origin,),
                _OUTCOME_PATIENCE,
                delay=transition.delay,
                attempt=attempt,
                costs_retry=transition.costs_retry,
            )
        else:
            outcome = self._outcome_of(batch, transition, verdict, opted_out_positions, parts, attempt)
            recorded = await self._record_result(batch, origin, outcome, opted_out_positions)
        if not recorded and verdict.kind is OutcomeKind.REJECTED:
            # It came so late that the batch is ambiguous by now: resolved, but never sent again (rule 5).
            late = Transition(BatchState.REJECTED, verdict.reason)
            outcome = self._outcome_of(batch, late, verdict, opted_out_positions, parts, attempt)
            recorded = await self._record(batch, (BatchState.AMBIGUOUS,), outcome, _OUTCOME_PATIENCE)
        if recorded is False:
            _log.warning("outcome not taken: the batch has moved on", batch_id=str(batch.batch_id), epoch=batch.epoch)
        return recorded is not None

    async def _record_result(
        self, batch: LeasedBatch, origin: BatchState, outcome: BatchOutcome, opted_out_positions: Sequence[int]
    ) -> bool | None:
        origins = [origin]
        if outcome.target in (BatchState.ACCEPTED, BatchState.REJECTED):
            origins.append(BatchState.AMBIGUOUS)  # a late response is evidence
        try:
            return await self._record(batch, origins, outcome, _OUTCOME_PATIENCE)
        except IntegrityError:
            # Its bulk id or first message id was given to another batch: no position of it can be believed.
            _log.error("response seen before", batch_id=str(batch.batch_id))
            self._metrics.alarms.add(1, {"alarm": "ID_KNOWN"})
            await self.mark_ambiguous(batch, "ID_KNOWN", opted_out_positions)
            return True

    async def _return(
        self,
        batch: LeasedBatch,
        origins: Collection[BatchState],
        patience: timedelta,
        *,
        delay: timedelta = timedelta(0),
        reason: str = "",
        attempt: AttemptResult | None = None,
        costs_retry: bool = False,
    ) -> bool | None:
        async def body(connection: AsyncConnection) -> bool:
            return await outcomes.return_to_queue(
                connection,
                batch.batch_id,
                batch.epoch,
                batch.campaign_id,
                origins,
                delay=delay,
                reason=reason,
                attempt=attempt,
                costs_retry=costs_retry,
            )

        recorded = await self._persist(body, batch, patience)
        self._on_returned(batch, delay)
        return recorded

    async def _record(
        self,
        batch: LeasedBatch,
        origins: Collection[BatchState],
        outcome: BatchOutcome,
        patience: timedelta,
    ) -> bool | None:
        async def body(connection: AsyncConnection) -> bool:
            return await outcomes.record(connection, batch.batch_id, batch.epoch, origins, outcome)

        recorded = await self._persist(body, batch, patience)
        self._on_recorded(batch)
        return recorded

    async def _persist(
        self, body: Callable[[AsyncConnection], Awaitable[T]], batch: LeasedBatch, patience: timedelta
    ) -> T | None:
        """Repeat a transaction until the database takes it; None when patience ends first."""
        give_up_at = time.monotonic() + patience.total_seconds()
        for number in count(1):
            try:
                async with self._database.begin() as connection:
                    return await body(connection)
            except IntegrityError:
                raise
            except DATABASE_ERRORS as error:
                if time.monotonic() >= give_up_at:
                    _log.error("outcome not written", batch_id=str(batch.batch_id), error_type=type(error).__name__)
                    return None
                _log.warning(
                    "outcome waits for the database",
                    batch_id=str(batch.batch_id),
                    attempt=number,
                    error_type=type(error).__name__,
                )
            await asyncio.sleep(_DATABASE_BACKOFF.after(number).total_seconds())
        raise AssertionError("unreachable: the loop returns or raises")

    def _outcome_of(
        self,
        batch: LeasedBatch,
        transition: Transition,
        verdict: Verdict,
        opted_out_positions: Sequence[int],
        parts: Sequence[int],
        attempt: AttemptResult,
    ) -> BatchOutcome:
        delay = self._retry_policy.delay(batch.retries)

        def is_deferred(description: str) -> bool:
            is_retryable = is_retryable_rejection(description, self._retryable_rejections)
            return is_retryable and delay is not None and not batch.is_single_message

        outcome = _outcome_of(batch, transition, verdict, opted_out_positions, parts, attempt, is_deferred)
        positions = [
            i for group in outcome.groups if group.outcome is RecipientOutcome.DEFERRED for i in group.positions or ()
        ]
        if not positions or delay is None:
            return outcome
        return replace(outcome, deferred=Deferred(unpack(batch.packed).only(sorted(positions)), delay))

    async def _rest(self, duration: timedelta, *, slower: bool) -> None:
        try:
            if slower:
                share = await self._limiter.back_off(duration)
                _log.warning("traffic account slowed down", share_of_limits=share)
            else:
                await self._limiter.block_account(duration)
        except PacingUnavailable:
            # Without Redis nothing is sent anyway.
            _log.warning("account could not be blocked")

    def _report(self, batch: LeasedBatch, verdict: Verdict, transition: Transition) -> None:
        facts = {
            "batch_id": str(batch.batch_id),
            "attempt": batch.attempts + 1,
            "outcome": verdict.kind.value,
            "reason": verdict.reason,
            "http_status": verdict.http_status,
            "state": transition.target.name,
            "recipients": batch.recipients,
        }
        if verdict.kind is OutcomeKind.AMBIGUOUS or verdict.follow_up in (FollowUp.PARK, FollowUp.PAUSE_ACCOUNT):
            self._metrics.alarms.add(1, {"alarm": verdict.reason})
            _log.error("batch needs attention", **facts)
        else:
            _log.info("batch attempted", **facts)


def _outcome_of(
    batch: LeasedBatch,
    transition: Transition,
    verdict: Verdict,
    opted_out_positions: Sequence[int],
    parts: Sequence[int],
    attempt: AttemptResult,
    is_deferred: Callable[[str], bool],
) -> BatchOutcome:
    accepted = transition.target is BatchState.ACCEPTED
    rejected_parts = (parts[position] for rejection in verdict.rejections for position in rejection.positions)
    response = None
    if verdict.http_status:
        response = StoredResponse(verdict.http_status, verdict.bulk_id, verdict.message_ids, verdict.body[:_MAX_BODY])
    return BatchOutcome(
        transition.target,
        groups_of(transition, verdict, batch.recipients, opted_out_positions, is_deferred),
        attempt=attempt,
        reason=transition.reason,
        description=verdict.description,
        parts=sum(parts) - sum(rejected_parts) if accepted else 0,
        response=response,
    )
