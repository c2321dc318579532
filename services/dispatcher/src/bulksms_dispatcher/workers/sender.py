"""The sender: one claimed batch through the protocol, from its permit to its recorded outcome."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode

from bulksms_dispatcher.domain.batches import LeasedBatch
from bulksms_dispatcher.domain.known_ids import KnownIds
from bulksms_dispatcher.domain.provider_outcomes import Exchange, Fault, FollowUp, Phase, Verdict, classify
from bulksms_dispatcher.domain.rate_limits import LimitScope
from bulksms_dispatcher.domain.recipients import pack_positions, unpack
from bulksms_dispatcher.domain.requests import RenderedRequest, render_alone, render_bulk, render_single
from bulksms_dispatcher.journal.journal import Journal
from bulksms_dispatcher.journal.records import RawAnswer
from bulksms_dispatcher.metrics import Metrics
from bulksms_dispatcher.pacing.arrivals import Arrivals, Journey
from bulksms_dispatcher.pacing.limiter import Limiter, PacingUnavailable
from bulksms_dispatcher.pacing.permits import Permit, Refusal
from bulksms_dispatcher.providers.mitto import BULK_PATH, SEND_PATH, MittoClient, NotArmed
from bulksms_dispatcher.storage import claims, holds, suppressions
from bulksms_dispatcher.use_cases.batch_sizes import BatchSizes
from bulksms_dispatcher.workers.holder import Holder
from bulksms_dispatcher.workers.recorder import DATABASE_ERRORS, Recorder
from bulksms_dispatcher.workers.tries import Try
from servicekit import logs
from servicekit.database import Database
from servicekit.telemetry import context_from_traceparent, current_traceparent, link_from_traceparent

__all__ = ["Sender"]

ARM_TIMEOUT_SECONDS = 10.0
ABANDON_TIMEOUT_SECONDS = 3.0
# Next to a limit places become free every few milliseconds. Not for longer: an urgent batch must not find all senders
# waiting with others, and a pause must stop sends within a second.
_WAIT_SECONDS = 0.25

_log = logs.get_logger("bulksms.dispatcher.sender")
_tracer = trace.get_tracer("bulksms.dispatcher")


class Sender:
    """Sends claimed batches; stateless between them but for the ids it has seen."""

    def __init__(
        self,
        database: Database,
        limiter: Limiter,
        arrivals: Arrivals,
        provider: MittoClient,
        recorder: Recorder,
        holder: Holder,
        known: KnownIds,
        journal: Journal,
        metrics: Metrics,
        *,
        worker: str,
        traffic_account_id: str,
        lease: timedelta,
        sizes: BatchSizes,
        use_bulk: bool = True,
    ) -> None:
        self._database = database
        self._limiter = limiter
        self._arrivals = arrivals
        self._provider = provider
        self._recorder = recorder
        self._holder = holder
        self._known = known
        self._journal = journal
        self._metrics = metrics
        self._worker = worker
        self._account = traffic_account_id
        self._lease = lease
        self._sizes = sizes
        self._use_bulk = use_bulk

    async def send(self, batch: LeasedBatch, claim_started_ns: int) -> Refusal | None:
        """Send one batch and record what became of it; a Refusal when its limit was reached and it went back.

        Raises PacingUnavailable after handing the batch back. Cancelled in mid-air, the batch is AMBIGUOUS.
        """
        if self._sizes.is_too_large(batch):
            await self._cut(batch)
            return None
        claimed_ns = time.time_ns()
        try:
            permit = await self._take_permit(batch)
        except BaseException as error:
            await self._recorder.hand_back(batch)
            if isinstance(error, PacingUnavailable):
                _log.warning("batch handed back: no pacing", batch_id=str(batch.batch_id))
            raise
        if isinstance(permit, Refusal):
            self._metrics.pacing_waits.add(1, {"scope": permit.scope.name if permit.scope else "BLOCKED"})
            await self._recorder.hand_back(batch, delay=permit.wait)
            return permit
        with self._arrivals.follow(permit) as journey, self._batch_span(batch, claim_started_ns) as span:
            _past_span("claim", claim_started_ns, claimed_ns)
            _past_span("pace", claimed_ns, time.time_ns())
            await self._send(batch, span, journey)
        return None

    async def _take_permit(self, batch: LeasedBatch) -> Permit | Refusal:
        """Waits for a place that all are waiting for; where only the tenant is at its limit, others can go first."""
        give_up_at = time.monotonic() + _WAIT_SECONDS
        while True:
            answer = await self._limiter.acquire(batch.tenant_id, batch.recipients)
            if isinstance(answer, Permit) or answer.scope not in (LimitScope.TRAFFIC_ACCOUNT, LimitScope.GLOBAL):
                return answer
            if time.monotonic() + answer.wait.total_seconds() > give_up_at:
                return answer
            await asyncio.sleep(answer.wait.total_seconds())

    async def _send(self, batch: LeasedBatch, span: trace.Span, journey: Journey) -> None:
        attempt = Try(batch, current_traceparent(), journey)
        try:
            judged = await self._ask(attempt)
        except BaseException:
            await self._abandon(attempt)
            raise
        if judged is None:
            return
        verdict, ticket = judged
        span.set_attributes(
            {
                "bulksms.outcome": verdict.kind.value,
                "bulksms.reason": verdict.reason,
                "bulksms.bulk_id": verdict.bulk_id,
                "bulksms.accepted": len(verdict.message_ids),
            }
        )
        if verdict.reason == Fault.NOT_ARMED.value and not attempt.may_have_been_sent:
            await self._hand_back(attempt)
            return
        self._measure(attempt, verdict)
        verdict = await self._learn(attempt, verdict)
        try:
            with _tracer.start_as_current_span("record"):
                if await self._recorder.record(batch, verdict, attempt.left_out, attempt.parts):
                    self._journal.committed(ticket)
        except asyncio.CancelledError:
            _log.error("outcome not recorded before the end", batch_id=str(batch.batch_id), kind=verdict.kind.value)
            raise

    async def _ask(self, attempt: Try) -> tuple[Verdict, Path | None] | None:
        """What the provider's answer proves, and where it is kept; None when there was nothing to send after all.

        Of what takes a megabyte a batch, the body sent and the answer, nothing outlives this.
        """
        rendered = await self._render(attempt)
        if rendered is None:
            return None
        request, version = rendered
        messages = request.messages
        if not messages:
            await self._recorder.record_all_left_out(attempt.batch)
            return None
        with _tracer.start_as_current_span("await place"):
            # Before the arming, so that no batch is armed for longer than it takes to send it.
            await attempt.journey.wait()
        exchange = await self._post(attempt, request, version)
        del rendered, request
        # On disk before anything is made of it: whatever happens now, the next process finds it there.
        ticket = await self._keep(attempt.batch, exchange)
        verdict = classify(exchange, messages, self._known)
        self._known.add(verdict.message_ids)
        return verdict, ticket

    async def _cut(self, batch: LeasedBatch) -> None:
        """Cut before the size shrank: what is too much becomes a batch of its own, and both are claimed again."""
        recipients, size = unpack(batch.packed), self._sizes.current
        first, rest = recipients.only(range(size)), recipients.only(range(size, batch.recipients))
        async with self._database.begin() as connection:
            await holds.split_off(connection, batch, self._worker, first, rest, timedelta(0), reason="")
        await self._recorder.hand_back(batch)

    async def _learn(self, attempt: Try, verdict: Verdict) -> Verdict:
        """Let the batch size follow; a batch found too large that can be cut is cut instead of parked."""
        batch = attempt.batch
        await self._sizes.observe(batch, verdict, time.monotonic() - attempt.sent_at)
        if verdict.reason == "BATCH_TOO_LARGE" and self._sizes.can_be_cut(batch):
            return replace(verdict, follow_up=FollowUp.CUT)
        return verdict

    async def _keep(self, batch: LeasedBatch, exchange: Exchange) -> Path | None:
        if exchange.phase is not Phase.ANSWERED:
            return None  # what was lost on the way proves nothing
        retry_after = exchange.retry_after.total_seconds() if exchange.retry_after is not None else None
        answer = RawAnswer(batch.batch_id, batch.epoch, batch.attempts + 1, exchange.status, retry_after, exchange.body)
        return await self._journal.append(answer)

    async def _render(self, attempt: Try) -> tuple[RenderedRequest, int] | None:
        """The request without those who have opted out, and the version of the list they were looked up in.

        None when recipients must wait for the fate of an earlier message: the batch was handed back without them.
        """
        batch = attempt.batch
        with _tracer.start_as_current_span("render"):
            recipients = unpack(batch.packed)
            async with self._database.autocommit() as connection:
                suppressed = await suppressions.find(connection, batch.tenant_id, recipients.phones)
                held = await self._holder.find(connection, batch, recipients.phones)
            if held:
                await self._holder.hold(batch, recipients, held)
                return None
            if batch.is_single_message:
                # Its opt-out was checked when it was asked for, and it has waited for next to nothing since.
                request = render_single(self._account, batch.sender, batch.text, recipients.phones[0])
            else:
                if suppressed.phones:
                    attempt.left_out = [i for i, phone in enumerate(recipients.phones) if phone in suppressed.phones]
                render = render_alone if self._goes_alone(batch) else render_bulk
                request = render(
                    self._account,
                    batch.sender,
                    batch.text,
                    batch.variable_names,
                    recipients,
                    frozenset(attempt.left_out),
                )
        attempt.parts = request.parts
        return request, suppressed.version

    def _goes_alone(self, batch: LeasedBatch) -> bool:
        """Through `Messages/send`. What was cut before USE_BULK_SMS was switched off goes as it was cut."""
        return batch.is_single_message or (not self._use_bulk and batch.recipients == 1)

    async def _post(self, attempt: Try, request: RenderedRequest, version: int) -> Exchange:
        batch = attempt.batch
        path = SEND_PATH if self._goes_alone(batch) else BULK_PATH

        async def arm() -> None:
            await self._arm(attempt, version)

        async def on_late() -> None:
            # Reading goes on; the batch is told as ambiguous until the answer resolves it.
            if attempt.may_have_been_sent:
                await self._recorder.mark_ambiguous(batch, "READ_TIMEOUT", attempt.left_out)

        def on_phase(phase: Phase) -> None:
            attempt.phase = phase
            if phase is Phase.SENDING:
                attempt.sent_at = time.monotonic()
            elif phase is Phase.ANSWERING:
                attempt.journey.arrived()

        attributes: dict[str, str | int] = {
            "http.request.method": "POST",
            "server.address": self._provider.server_address,
            "server.port": self._provider.server_port,
            "url.path": path,
            "http.request.body.size": len(request.body),
            "bulksms.messages": request.messages,
        }
        with _tracer.start_as_current_span("POST", kind=SpanKind.CLIENT, attributes=attributes) as span:
            exchange = await self._provider.post(
                path,
                request.body,
                request.messages,
                arm=arm,
                on_late=on_late,
                on_phase=on_phase,
                on_written=attempt.journey.written,
            )
            if exchange.status:
                span.set_attribute("http.response.status_code", exchange.status)
            if exchange.fault is not Fault.NONE or exchange.status >= 400:
                span.set_attribute("error.type", exchange.fault.value or str(exchange.status))
                span.set_status(Status(StatusCode.ERROR, exchange.fault.value))
        return exchange

    async def _arm(self, attempt: Try, suppression_version: int) -> None:
        batch = attempt.batch
        with _tracer.start_as_current_span("arm"):
            try:
                async with asyncio.timeout(ARM_TIMEOUT_SECONDS), self._database.autocommit() as connection:
                    armed = await claims.arm(
                        connection,
                        batch.batch_id,
                        batch.epoch,
                        self._worker,
                        lease=self._lease,
                        suppression_version=suppression_version,
                        left_out=pack_positions(attempt.left_out) if attempt.left_out else None,
                        traceparent=attempt.traceparent,
                    )
            except BaseException as error:
                attempt.arm_unknown = True
                if isinstance(error, DATABASE_ERRORS):
                    raise NotArmed("the database did not confirm") from error
                raise
        if not armed:
            raise NotArmed("the batch is not this worker's any more")
        attempt.arm_unknown = True
        if not attempt.journey.begin():
            # Frozen for longer than its place was kept: it is another request's by now.
            raise NotArmed("the permit is too old")

    async def _hand_back(self, attempt: Try) -> None:
        """Nothing was sent."""
        if attempt.arm_unknown:
            await self._recorder.hand_back_unsent(attempt.batch, attempt.left_out)
        else:
            await self._recorder.hand_back(attempt.batch)

    async def _abandon(self, attempt: Try) -> None:
        """Interrupted or broken in the middle: say of the batch what is certain, as far as the time allows."""
        batch = attempt.batch
        _log.warning("send abandoned", batch_id=str(batch.batch_id), phase=attempt.phase.name)
        try:
            # A process that is told to end must not be held up by a database that is away; the reaper comes later.
            async with asyncio.timeout(ABANDON_TIMEOUT_SECONDS):
                if attempt.may_have_been_sent:
                    await self._recorder.mark_ambiguous(batch, Fault.INTERRUPTED.value, attempt.left_out)
                else:
                    await self._hand_back(attempt)
        except TimeoutError:
            _log.error("abandoned batch left to the reaper", batch_id=str(batch.batch_id))

    def _measure(self, attempt: Try, verdict: Verdict) -> None:
        labels = {"outcome": verdict.kind.value, "reason": verdict.reason}
        self._metrics.batches.add(1, labels)
        self._metrics.messages.add(attempt.batch.recipients, {"outcome": verdict.kind.value})
        if attempt.sent_at:
            self._metrics.provider_seconds.record(time.monotonic() - attempt.sent_at, {"outcome": verdict.kind.value})

    @contextmanager
    def _batch_span(self, batch: LeasedBatch, started_ns: int) -> Iterator[trace.Span]:
        """One consumer span per try, child of the enqueue, so that enqueue to completion is one trace."""
        link = link_from_traceparent(batch.traceparent)
        with _tracer.start_as_current_span(
            "send batch",
            context=context_from_traceparent(batch.traceparent),
            kind=SpanKind.CONSUMER,
            links=[link] if link else [],
            start_time=started_ns,
            attributes={
                "bulksms.tenant_id": batch.tenant_id,
                "bulksms.campaign_id": "" if batch.is_single_message else str(batch.campaign_id),
                "bulksms.batch_id": str(batch.batch_id),
                "bulksms.batch_number": batch.number,
                "bulksms.epoch": batch.epoch,
                "bulksms.attempt": batch.attempts + 1,
                "bulksms.recipients": batch.recipients,
                "bulksms.waited_seconds": batch.waited_seconds,
            },
        ) as span:
            yield span


def _past_span(name: str, started_ns: int, ended_ns: int) -> None:
    _tracer.start_span(name, start_time=started_ns).end(ended_ns)
