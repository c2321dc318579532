"""The recorder: what became of a batch, written down whatever the database does in the meantime."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import timedelta

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.account_holds import HoldKind
from bulksms_dispatcher.domain.authorizations import SENT_EARLIER, Division, void_of
from bulksms_dispatcher.domain.batch_outcomes import AttemptResult, BatchOutcome, Return
from bulksms_dispatcher.domain.batches import LeasedBatch
from bulksms_dispatcher.domain.protocol import BatchState, OutcomeKind
from bulksms_dispatcher.domain.provider_outcomes import Verdict
from bulksms_dispatcher.domain.recipients import unpack
from bulksms_dispatcher.domain.retries import RetryPolicy
from bulksms_dispatcher.domain.transitions import Transition, transition_after
from bulksms_dispatcher.domain.verdicts import outcome_of, positions_asked
from bulksms_dispatcher.metrics import Metrics
from bulksms_dispatcher.pacing.limiter import Limiter, PacingUnavailable
from bulksms_dispatcher.peers.ledger import LedgerPeer
from bulksms_dispatcher.storage import outcomes
from bulksms_dispatcher.workers.patient_voids import PatientVoids
from bulksms_dispatcher.workers.patient_writes import PatientWrites
from servicekit import logs
from servicekit.database import Database

__all__ = ["Recorder"]

# An outcome that is known is not given up: the sender waits with it, and takes nothing new meanwhile.
_OUTCOME_PATIENCE = timedelta(hours=1)
# A batch that is not handed back is found by the reaper, a little later.
_HAND_BACK_PATIENCE = timedelta(seconds=5)
_log = logs.get_logger("bulksms.dispatcher.recorder")


class Recorder:
    """Writes outcomes; every write is a compare-and-set, so repeating one whose reply was lost is harmless."""

    def __init__(
        self,
        database: Database,
        ledger: LedgerPeer,
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
        self._writes = PatientWrites(database)
        self._voids = PatientVoids(ledger)
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
        await self._return(batch, (BatchState.LEASED,), Return(delay, reason), _HAND_BACK_PATIENCE)

    async def hand_back_unsent(
        self,
        batch: LeasedBatch,
        opted_out_positions: Sequence[int],
        returned: Return = Return(),  # noqa: B008 - immutable
    ) -> None:
        """The same when it is armed, or may be. Nothing was sent, and only this worker knows that.

        It is READY only after the ledger has acknowledged that the attempt is void. If the reaper was first and it was
        authorized, the batch is ambiguous: that is over, but it is never sent again (rule 5).
        """
        if not await self._voids.void(void_of(batch), _OUTCOME_PATIENCE):
            return  # the reaper asks the ledger
        taken = await self._return(batch, (BatchState.LEASED, BatchState.ARMED), returned, _OUTCOME_PATIENCE)
        if taken is False:
            outcome = BatchOutcome.not_sent(opted_out_positions)
            if await self._record(batch, (BatchState.AMBIGUOUS,), outcome, _OUTCOME_PATIENCE):
                _log.error("batch not sent: it was ambiguous first", batch_id=str(batch.batch_id))

    async def mark_ambiguous(self, batch: LeasedBatch, reason: str, opted_out_positions: Sequence[int]) -> None:
        """ARMED → AMBIGUOUS; when that cannot be written, the reaper does it once the lease is over."""
        outcome = BatchOutcome.ambiguous(reason, opted_out_positions)
        await self._record(batch, (BatchState.ARMED,), outcome, _HAND_BACK_PATIENCE)

    async def hand_back_divided(self, batch: LeasedBatch, division: Division) -> None:
        """An armed batch of which nothing was sent becomes READY in two parts."""
        if not await self._voids.void(void_of(batch), _OUTCOME_PATIENCE):
            return
        recipients = unpack(batch.packed)
        kept, others = recipients.only(division.kept), recipients.only(division.others)

        async def body(connection: AsyncConnection) -> bool:
            return await outcomes.return_divided(connection, batch, kept, others, SENT_EARLIER)

        await self._writes.write(body, batch.batch_id, _OUTCOME_PATIENCE)
        self._on_returned(batch, timedelta(0))

    async def record_refused(self, batch: LeasedBatch, outcome: BatchOutcome) -> None:
        """ARMED → what follows from the ledger's refusal to authorize the attempt."""
        await self._record(batch, (BatchState.ARMED,), outcome, _OUTCOME_PATIENCE)

    async def record_all_opted_out(self, batch: LeasedBatch) -> None:
        """Everyone in it has opted out: there is nothing to send."""
        await self._record(batch, (BatchState.LEASED,), BatchOutcome.all_opted_out(), _HAND_BACK_PATIENCE)

    async def record(
        self, batch: LeasedBatch, verdict: Verdict, opted_out_positions: Sequence[int], parts: Sequence[int]
    ) -> bool:
        """Write what an attempt came to, and what follows from it; False when the database was away for too long."""
        transition = transition_after(verdict, batch.recipients, batch.retries, self._retry_policy, self._account_pause)
        self._report(batch, verdict, transition)
        if transition.account_rest is not None:
            await self._rest(transition.account_rest, slower=transition.slows_account)
        origin = BatchState.LEASED if verdict.kind is OutcomeKind.NOT_SENT else BatchState.ARMED
        if origin is BatchState.ARMED and not await self._void_rejected(batch, verdict, opted_out_positions):
            return False  # what the journal has is read back when the ledger answers again
        if transition.target is BatchState.READY:
            attempt = AttemptResult(verdict.kind, verdict.reason, verdict.http_status, self._worker)
            returned = Return(transition.delay, attempt=attempt, costs_retry=transition.costs_retry)
            recorded = await self._return(batch, (origin,), returned, _OUTCOME_PATIENCE)
        else:
            outcome = self._outcome_of(batch, verdict, transition, opted_out_positions, parts)
            origins = [origin]
            if outcome.target in (BatchState.ACCEPTED, BatchState.REJECTED) and not transition.sends_others:
                origins.append(BatchState.AMBIGUOUS)  # a late response is evidence
            recorded = await self._record_result(batch, origins, outcome, opted_out_positions)
        if not recorded and verdict.kind is OutcomeKind.REJECTED:
            # It came so late that the batch is ambiguous by now: resolved, but never sent again (rule 5).
            late = Transition(BatchState.REJECTED, verdict.reason)
            outcome = self._outcome_of(batch, verdict, late, opted_out_positions, parts)
            recorded = await self._record(batch, (BatchState.AMBIGUOUS,), outcome, _OUTCOME_PATIENCE)
        if recorded is False:
            _log.warning("outcome not taken: the batch has moved on", batch_id=str(batch.batch_id), epoch=batch.epoch)
        return recorded is not None

    async def _void_rejected(self, batch: LeasedBatch, verdict: Verdict, opted_out_positions: Sequence[int]) -> bool:
        """The provider's word that it refused frees those refused, before they can be READY again; False: not yet."""
        if verdict.kind is OutcomeKind.REJECTED:
            return await self._voids.void(void_of(batch), _OUTCOME_PATIENCE)
        if verdict.kind is OutcomeKind.ACCEPTED and verdict.rejections:
            asked = positions_asked(batch.recipients, opted_out_positions)
            refused = [asked[position] for rejection in verdict.rejections for position in rejection.positions]
            return await self._voids.void(void_of(batch, refused), _OUTCOME_PATIENCE)
        return True

    async def _record_result(
        self,
        batch: LeasedBatch,
        origins: Collection[BatchState],
        outcome: BatchOutcome,
        opted_out_positions: Sequence[int],
    ) -> bool | None:
        try:
            return await self._record(batch, origins, outcome, _OUTCOME_PATIENCE)
        except IntegrityError:
            # Its bulk id or first message id was given to another batch: no position of it can be believed.
            _log.error("response seen before", batch_id=str(batch.batch_id))
            self._metrics.alarms.add(1, {"alarm": "ID_KNOWN"})
            await self.mark_ambiguous(batch, "ID_KNOWN", opted_out_positions)
            return True

    async def _return(
        self, batch: LeasedBatch, origins: Collection[BatchState], returned: Return, patience: timedelta
    ) -> bool | None:
        async def body(connection: AsyncConnection) -> bool:
            return await outcomes.return_to_queue(connection, batch.key, batch.campaign_id, origins, returned)

        recorded = await self._writes.write(body, batch.batch_id, patience)
        self._on_returned(batch, returned.delay)
        return recorded

    async def _record(
        self, batch: LeasedBatch, origins: Collection[BatchState], outcome: BatchOutcome, patience: timedelta
    ) -> bool | None:
        async def body(connection: AsyncConnection) -> bool:
            return await outcomes.record(connection, batch.key, origins, outcome)

        recorded = await self._writes.write(body, batch.batch_id, patience)
        self._on_recorded(batch)
        return recorded

    def _outcome_of(
        self,
        batch: LeasedBatch,
        verdict: Verdict,
        transition: Transition,
        opted_out_positions: Sequence[int],
        parts: Sequence[int],
    ) -> BatchOutcome:
        return outcome_of(
            verdict,
            transition,
            batch,
            opted_out_positions,
            parts,
            worker=self._worker,
            retry_policy=self._retry_policy,
            meaning_not_now=self._retryable_rejections,
        )

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
        if transition.target is BatchState.DEAD:
            self._metrics.dead.add(1, {"reason": transition.reason})
        if verdict.kind is OutcomeKind.AMBIGUOUS or verdict.hold is HoldKind.REFUSED:
            self._metrics.alarms.add(1, {"alarm": verdict.reason})
            _log.error("batch needs attention", **facts)
        else:
            _log.info("batch attempted", **facts)
