"""The sender: one claimed batch through the protocol, in the order that the rules demand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from opentelemetry import trace

from bulksms_dispatcher.domain.authorizations import AuthorizationRefusal
from bulksms_dispatcher.domain.batch_outcomes import Return
from bulksms_dispatcher.domain.batches import LeasedBatch
from bulksms_dispatcher.domain.known_ids import KnownIds
from bulksms_dispatcher.domain.protocol import OutcomeKind
from bulksms_dispatcher.domain.provider_outcomes import Fault, Promises, Verdict, classify
from bulksms_dispatcher.metrics import Metrics
from bulksms_dispatcher.pacing.in_flight import InFlightTracker
from bulksms_dispatcher.pacing.permits import Throttled
from bulksms_dispatcher.providers.mitto import MittoClient, NotConnected
from bulksms_dispatcher.use_cases.batch_sizes import BatchSizes
from bulksms_dispatcher.workers import send_spans
from bulksms_dispatcher.workers.preparation import Preparation
from bulksms_dispatcher.workers.recorder import Recorder
from bulksms_dispatcher.workers.traffic_account import TrafficAccount
from bulksms_dispatcher.workers.transmission import NotAuthorized, NotBegun, SendProgress, Transmission
from servicekit import logs
from servicekit.telemetry import current_traceparent

__all__ = ["Sender"]

_log = logs.get_logger("bulksms.dispatcher.sender")


@dataclass(frozen=True, slots=True)
class _Judged:
    """What an attempt proved, and what is needed to write it down."""

    verdict: Verdict
    ticket: Path | None
    """Where the journal has the response."""
    parts: Sequence[int]


class Sender:
    """Sends claimed batches; stateless between them but for the ids it has seen."""

    def __init__(
        self,
        preparation: Preparation,
        tracker: InFlightTracker,
        provider: MittoClient,
        transmission: Transmission,
        recorder: Recorder,
        known: KnownIds,
        sizes: BatchSizes,
        account: TrafficAccount,
        metrics: Metrics,
        promises: Promises,
    ) -> None:
        self._preparation = preparation
        self._tracker = tracker
        self._provider = provider
        self._transmission = transmission
        self._recorder = recorder
        self._known = known
        self._sizes = sizes
        self._account = account
        self._promises = promises
        self._metrics = metrics

    async def send(self, batch: LeasedBatch, claim_started_ns: int) -> Throttled | None:
        """Send one batch and record what became of it; Throttled when a limit was reached and it went back.

        Raises PacingUnavailable after handing the batch back. Cancelled in mid-air, the batch is AMBIGUOUS.
        """
        claimed_ns = time.time_ns()
        try:
            cut = await self._preparation.cut(batch)
            return None if cut is None else await self._send(cut, claim_started_ns, claimed_ns)
        finally:
            if batch.probe is not None:
                await self._account.end_probe(batch, batch.probe)

    async def _send(self, batch: LeasedBatch, claim_started_ns: int, claimed_ns: int) -> Throttled | None:
        permit = await self._preparation.take_permit(batch)
        if isinstance(permit, Throttled):
            return permit
        with self._tracker.follow(permit) as in_flight, send_spans.batch_span(batch, claim_started_ns) as span:
            send_spans.past_step("claim", claim_started_ns, claimed_ns)
            send_spans.past_step("pace", claimed_ns, time.time_ns())
            progress = SendProgress(batch, in_flight)
            try:
                judged = await self._attempt(progress)
            except NotBegun as reason:
                await self._hand_back(progress, reason, span)
            except NotAuthorized as refused:
                await self._refuse(progress, refused.refusal, span)
            except BaseException:
                await self._transmission.abandon(progress)
                raise
            else:
                if judged is not None:
                    await self._record(progress, judged, span)
        return None

    async def _attempt(self, progress: SendProgress) -> _Judged | None:
        """The protocol, from top to bottom; None when there was nothing to send after all."""
        batch, traceparent = progress.batch, current_traceparent()
        prepared = await self._preparation.prepare(batch)
        if prepared is None:
            return None
        progress.opted_out = prepared.opted_out
        with send_spans.step("await slot"):
            # Before the arm, so that no batch is armed for longer than it takes to send it.
            await progress.in_flight.wait()
        with send_spans.post_span(self._provider, prepared.path, prepared.request) as span:
            try:
                async with self._provider.connection() as connection:
                    await self._transmission.arm(progress, prepared, traceparent)
                    await self._transmission.authorize(progress)
                    exchange = await self._transmission.send(progress, prepared, connection)
            except NotConnected as failed:
                exchange = failed.exchange
            send_spans.note_exchange(span, exchange)
        messages, parts = prepared.request.messages, prepared.request.parts
        del prepared  # a megabyte, and the response is another
        ticket = await self._transmission.keep(progress.batch, exchange)
        verdict = classify(exchange, messages, self._known, self._promises)
        self._known.add(verdict.message_ids)
        return _Judged(verdict, ticket, parts)

    async def _record(self, progress: SendProgress, judged: _Judged, span: trace.Span) -> None:
        batch = progress.batch
        send_spans.note_verdict(span, judged.verdict)
        self._measure(progress, judged.verdict)
        verdict = judged.verdict
        await self._sizes.observe(batch, verdict, time.monotonic() - progress.sent_at)
        if not (progress.is_late and verdict.kind is OutcomeKind.AMBIGUOUS):
            await self._account.observe(batch, verdict)
        try:
            with send_spans.step("record"):
                if await self._recorder.record(batch, verdict, progress.opted_out, judged.parts):
                    self._transmission.committed(judged.ticket)
        except asyncio.CancelledError:
            _log.error("outcome not recorded before the end", batch_id=str(batch.batch_id), kind=verdict.kind.value)
            raise

    async def _hand_back(self, progress: SendProgress, reason: NotBegun, span: trace.Span) -> None:
        send_spans.note_verdict(span, Verdict(OutcomeKind.NOT_SENT, Fault.NOT_ARMED.value))
        _log.info("batch handed back", batch_id=str(progress.batch.batch_id), reason=str(reason))
        await self._transmission.hand_back(progress, Return(reason=reason.reason))

    async def _refuse(self, progress: SendProgress, refusal: AuthorizationRefusal, span: trace.Span) -> None:
        send_spans.note_verdict(span, Verdict(OutcomeKind.NOT_SENT, refusal.reason))
        self._metrics.authorizations_refused.add(1, {"reason": refusal.reason})
        _log.warning("batch not authorized", batch_id=str(progress.batch.batch_id), reason=refusal.reason)
        await self._transmission.refused(progress, refusal)

    def _measure(self, progress: SendProgress, verdict: Verdict) -> None:
        labels = {"outcome": verdict.kind.value, "reason": verdict.reason}
        self._metrics.batches.add(1, labels)
        self._metrics.messages.add(progress.batch.recipients, {"outcome": verdict.kind.value})
        if progress.sent_at:
            seconds = time.monotonic() - progress.sent_at
            self._metrics.provider_seconds.record(seconds, {"outcome": verdict.kind.value})
