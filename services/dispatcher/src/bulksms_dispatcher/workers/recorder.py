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

from bulksms_dispatcher.domain.batches import LeasedBatch
from bulksms_dispatcher.domain.protocol import BatchState, OutcomeKind
from bulksms_dispatcher.domain.provider_outcomes import FollowUp, Verdict
from bulksms_dispatcher.domain.recipients import unpack
from bulksms_dispatcher.domain.results import RecipientOutcome, whole
from bulksms_dispatcher.domain.retries import RetryPolicy
from bulksms_dispatcher.domain.settlements import Answered, Deferred, Settlement, Tried
from bulksms_dispatcher.domain.verdicts import Decision, decide, groups_of, is_retryable_refusal
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
    """Writes outcomes; every write is a compare-and-set, so repeating one whose answer was lost is harmless."""

    def __init__(
        self,
        database: Database,
        limiter: Limiter,
        metrics: Metrics,
        *,
        worker: str,
        retry_policy: RetryPolicy,
        account_pause: timedelta,
        retryable_refusals: Sequence[str] = (),
        on_settled: Callable[[LeasedBatch], None],
        on_returned: Callable[[LeasedBatch, timedelta], None],
    ) -> None:
        self._database = database
        self._limiter = limiter
        self._metrics = metrics
        self._worker = worker
        self._retry_policy = retry_policy
        self._account_pause = account_pause
        self._retryable_refusals = retryable_refusals
        self._on_settled = on_settled
        self._on_returned = on_returned

    async def hand_back(self, batch: LeasedBatch, *, delay: timedelta = timedelta(0), reason: str = "") -> None:
        """Make a batch that was not armed READY again; costs no retry."""
        await self._return(batch, (BatchState.LEASED,), _HAND_BACK_PATIENCE, delay=delay, reason=reason)

    async def hand_back_unsent(self, batch: LeasedBatch, left_out: Sequence[int]) -> None:
        """The same when nobody knows whether the arm was committed. Nothing was sent, and only this worker knows that.

        If the reaper was first the batch is ambiguous: that is over, but it is never sent again (rule 5).
        """
        returned = await self._return(batch, (BatchState.LEASED, BatchState.ARMED), _OUTCOME_PATIENCE)
        if returned is False:
            reason = OutcomeKind.NOT_SENT.value
            settlement = Settlement(
                BatchState.REJECTED,
                whole(RecipientOutcome.FAILED, left_out, reason=reason),
                tried=Tried(OutcomeKind.NOT_SENT, reason),
                reason=reason,
            )
            if await self._settle(batch, (BatchState.AMBIGUOUS,), settlement, _OUTCOME_PATIENCE):
                _log.error("batch not sent: it was doubted first", batch_id=str(batch.batch_id))

    async def mark_ambiguous(self, batch: LeasedBatch, reason: str, left_out: Sequence[int]) -> None:
        """ARMED → AMBIGUOUS; when that cannot be written, the reaper does it once the lease is over."""
        settlement = Settlement(
            BatchState.AMBIGUOUS,
            whole(RecipientOutcome.AMBIGUOUS, left_out, reason=reason),
            tried=Tried(OutcomeKind.AMBIGUOUS, reason),
            reason=reason,
        )
        await self._settle(batch, (BatchState.ARMED,), settlement, _HAND_BACK_PATIENCE)

    async def record_all_left_out(self, batch: LeasedBatch) -> None:
        """Everyone in it has opted out: there is nothing to send."""
        groups = whole(RecipientOutcome.SUPPRESSED, reason="OPTED_OUT")
        settlement = Settlement(BatchState.CANCELLED, groups, reason="OPTED_OUT")
        await self._settle(batch, (BatchState.LEASED,), settlement, _HAND_BACK_PATIENCE)

    async def record(self, batch: LeasedBatch, verdict: Verdict, left_out: Sequence[int], parts: Sequence[int]) -> bool:
        """Write what a try came to, and what follows from it; False when the database was away for too long."""
        decision = decide(verdict, batch.retries, self._retry_policy, self._account_pause)
        self._report(batch, verdict, decision)
        if decision.account_rest is not None:
            await self._rest(decision.account_rest, slower=decision.slows_account)
        tried = Tried(verdict.kind, verdict.reason, verdict.http_status, self._worker)
        origin = BatchState.LEASED if verdict.kind is OutcomeKind.NOT_SENT else BatchState.ARMED
        if decision.target is BatchState.READY:
            recorded = await self._return(
                batch,
                (origin,),
                _OUTCOME_PATIENCE,
                delay=decision.delay,
                tried=tried,
                costs_retry=decision.costs_retry,
            )
        else:
            settlement = self._settlement(batch, decision, verdict, left_out, parts, tried)
            recorded = await self._settle_result(batch, origin, settlement, left_out)
        if not recorded and verdict.kind is OutcomeKind.REFUSED:
            # It came so late that the batch is ambiguous by now: resolved, but never sent again (rule 5).
            late = Decision(BatchState.REJECTED, verdict.reason)
            settlement = self._settlement(batch, late, verdict, left_out, parts, tried)
            recorded = await self._settle(batch, (BatchState.AMBIGUOUS,), settlement, _OUTCOME_PATIENCE)
        if recorded is False:
            _log.warning("outcome not taken: the batch has moved on", batch_id=str(batch.batch_id), epoch=batch.epoch)
        return recorded is not None

    async def _settle_result(
        self, batch: LeasedBatch, origin: BatchState, settlement: Settlement, left_out: Sequence[int]
    ) -> bool | None:
        origins = [origin]
        if settlement.target in (BatchState.ACCEPTED, BatchState.REJECTED):
            origins.append(BatchState.AMBIGUOUS)  # a late answer is evidence
        try:
            return await self._settle(batch, origins, settlement, _OUTCOME_PATIENCE)
        except IntegrityError:
            # Its bulk id or first message id was given to another batch: no position of it can be believed.
            _log.error("answer seen before", batch_id=str(batch.batch_id))
            self._metrics.alarms.add(1, {"alarm": "ID_KNOWN"})
            await self.mark_ambiguous(batch, "ID_KNOWN", left_out)
            return True

    async def _return(
        self,
        batch: LeasedBatch,
        origins: Collection[BatchState],
        patience: timedelta,
        *,
        delay: timedelta = timedelta(0),
        reason: str = "",
        tried: Tried | None = None,
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
                tried=tried,
                costs_retry=costs_retry,
            )

        recorded = await self._persist(body, batch, patience)
        self._on_returned(batch, delay)
        return recorded

    async def _settle(
        self,
        batch: LeasedBatch,
        origins: Collection[BatchState],
        settlement: Settlement,
        patience: timedelta,
    ) -> bool | None:
        async def body(connection: AsyncConnection) -> bool:
            return await outcomes.settle(connection, batch.batch_id, batch.epoch, origins, settlement)

        recorded = await self._persist(body, batch, patience)
        self._on_settled(batch)
        return recorded

    async def _persist(
        self, body: Callable[[AsyncConnection], Awaitable[T]], batch: LeasedBatch, patience: timedelta
    ) -> T | None:
        """Repeat a transaction until the database takes it; None when patience ends first."""
        give_up_at = time.monotonic() + patience.total_seconds()
        for attempt in count(1):
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
                    attempt=attempt,
                    error_type=type(error).__name__,
                )
            await asyncio.sleep(_DATABASE_BACKOFF.after(attempt).total_seconds())
        raise AssertionError("unreachable: the loop returns or raises")

    def _settlement(
        self,
        batch: LeasedBatch,
        decision: Decision,
        verdict: Verdict,
        left_out: Sequence[int],
        parts: Sequence[int],
        tried: Tried,
    ) -> Settlement:
        delay = self._retry_policy.delay(batch.retries)

        def is_deferred(description: str) -> bool:
            is_retryable = is_retryable_refusal(description, self._retryable_refusals)
            return is_retryable and delay is not None and not batch.is_single_message

        settlement = _settlement(batch, decision, verdict, left_out, parts, tried, is_deferred)
        positions = [
            i
            for group in settlement.groups
            if group.outcome is RecipientOutcome.DEFERRED
            for i in group.positions or ()
        ]
        if not positions or delay is None:
            return settlement
        return replace(settlement, deferred=Deferred(unpack(batch.packed).only(sorted(positions)), delay))

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

    def _report(self, batch: LeasedBatch, verdict: Verdict, decision: Decision) -> None:
        facts = {
            "batch_id": str(batch.batch_id),
            "attempt": batch.attempts + 1,
            "outcome": verdict.kind.value,
            "reason": verdict.reason,
            "http_status": verdict.http_status,
            "state": decision.target.name,
            "recipients": batch.recipients,
        }
        if verdict.kind is OutcomeKind.AMBIGUOUS or verdict.follow_up in (FollowUp.PARK, FollowUp.PAUSE_ACCOUNT):
            self._metrics.alarms.add(1, {"alarm": verdict.reason})
            _log.error("batch needs attention", **facts)
        else:
            _log.info("batch tried", **facts)


def _settlement(
    batch: LeasedBatch,
    decision: Decision,
    verdict: Verdict,
    left_out: Sequence[int],
    parts: Sequence[int],
    tried: Tried,
    is_deferred: Callable[[str], bool],
) -> Settlement:
    accepted = decision.target is BatchState.ACCEPTED
    refused_parts = (parts[position] for refusal in verdict.refusals for position in refusal.positions)
    answered = None
    if verdict.http_status:
        answered = Answered(verdict.http_status, verdict.bulk_id, verdict.message_ids, verdict.body[:_MAX_BODY])
    return Settlement(
        decision.target,
        groups_of(decision, verdict, batch.recipients, left_out, is_deferred),
        tried=tried,
        reason=decision.reason,
        description=verdict.description,
        parts=sum(parts) - sum(refused_parts) if accepted else 0,
        answered=answered,
    )
