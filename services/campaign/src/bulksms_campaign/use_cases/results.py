"""Results: what the dispatcher and the gateway report of recipients, recorded with the counters in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple
from uuid import UUID

from opentelemetry import metrics, trace
from opentelemetry.trace import Link, SpanKind
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.attempts import ReportedAttempt
from bulksms_campaign.domain.campaigns import UNDER_WAY, campaign_not_found
from bulksms_campaign.domain.counters import movement
from bulksms_campaign.domain.enqueues import EnqueueKey
from bulksms_campaign.domain.results import MessageReport, OutcomeGroup, repeated_ids, with_refused_ids
from bulksms_campaign.storage.batches import BatchRow, TouchedBatch, lock_attempt, read_batches_of, upsert_batch
from bulksms_campaign.storage.counters import move_counters
from bulksms_campaign.storage.enqueues import ResultTarget, read_result_target
from bulksms_campaign.storage.message_ids import read_ids_of_others
from bulksms_campaign.storage.reports import RecordedReports, record_reports
from bulksms_campaign.storage.results import read_awaited, record_outcomes
from bulksms_campaign.storage.tasks import TaskKind, ask_for_task
from bulksms_campaign.use_cases.signals import Signals
from servicekit import logs
from servicekit.database import Database
from servicekit.telemetry import context_from_traceparent

_log = logs.get_logger("bulksms.campaign.results")

MAX_BATCH_SPANS = 50
"""Batches of one call whose traces get a span of it; more than a call of 5,000 reports touches in practice."""


class _RecordedBatch(NamedTuple):
    changed: int = 0
    refused_ids: int = 0
    may_end: bool = False


class Results:
    """Idempotent: a fact already known changes nothing and moves no counter."""

    def __init__(self, database: Database, signals: Signals, tracer: trace.Tracer | None = None) -> None:
        self._database = database
        self._signals = signals
        self._tracer = tracer or trace.get_tracer("bulksms.campaign.results")
        meter = metrics.get_meter("bulksms.campaign.results")
        self._outcomes = meter.create_counter("campaign.recipient_changes", description="Recipients changed, by source")
        self._unknown = meter.create_counter("campaign.unknown_reports", description="Reports for unknown message ids")
        self._mixed_up = meter.create_counter(
            "campaign.message_ids_refused", description="Message ids that the provider gave to more than one message"
        )

    async def record_batch(self, batch: BatchRow, groups: Sequence[OutcomeGroup]) -> int:
        """Record the outcomes of one batch; returns how many recipients changed. CAMPAIGN_NOT_FOUND."""

        async def body(connection: AsyncConnection) -> _RecordedBatch:
            key, target = await _target(connection, batch.tenant_id, batch.campaign_id, batch.enqueue_number)
            if key is None:
                return _RecordedBatch()
            before = await lock_attempt(connection, batch.tenant_id, batch.batch_id)
            reported = ReportedAttempt.of(batch.epoch, batch.attempt_id, groups)
            counts = reported.following(before)
            refused = await _refused_ids(connection, key, groups)
            safe = with_refused_ids(groups, refused) if refused else groups
            transitions = await record_outcomes(
                connection, key, counts.epoch, safe, target.now, keep_unsure=reported.is_foreign_to(before)
            )
            await upsert_batch(connection, batch._replace(**counts._asdict()), target.now)
            if not transitions:
                return _RecordedBatch()
            counters = await move_counters(connection, key, movement(transitions), target.now)
            may_end = counters.all_tried and target.state in UNDER_WAY
            if may_end:
                await ask_for_task(connection, TaskKind.COMPLETE, batch.tenant_id, batch.campaign_id, target.now)
            return _RecordedBatch(sum(change.recipients for change in transitions), len(refused), may_end)

        with self._span_in(batch.traceparent, "campaign.record_batch") as span:
            changed, refused_ids, may_end = await self._database.run_transaction(body)
            span.set_attributes(
                {
                    "bulksms.campaign_id": str(batch.campaign_id),
                    "bulksms.batch_id": str(batch.batch_id),
                    "bulksms.recipients_changed": changed,
                }
            )
        self._outcomes.add(changed, {"source": "dispatcher"})
        if refused_ids:
            self._raise_mix_up(refused_ids, campaign_id=str(batch.campaign_id), batch_id=str(batch.batch_id))
        if may_end:
            self._signals.complete.notify()
        return changed

    async def record_reports(self, reports: Mapping[str, MessageReport], tenant_id: str = "") -> tuple[set[str], int]:
        """Record delivery reports by message id; returns the known ids and how many recipients changed.

        With a tenant, messages of other tenants count as unknown.
        """

        async def body(connection: AsyncConnection) -> RecordedReports:
            recorded = await record_reports(connection, reports, tenant_id)
            for key in sorted(recorded.transitions):
                await move_counters(connection, key, movement(recorded.transitions[key]), recorded.now)
            return recorded

        recorded = await self._database.run_transaction(body)
        self._outcomes.add(recorded.number_changed, {"source": "reports"})
        self._unknown.add(len(reports) - len(recorded.known))
        if recorded.mixed_up:
            self._raise_mix_up(len(recorded.mixed_up), source="reports")
        if recorded.changed:
            await self._trace_batches(recorded.changed)
        return recorded.known, recorded.number_changed

    def _raise_mix_up(self, ids: int, **where: str) -> None:
        self._mixed_up.add(ids)
        _log.error("the provider gave a message id twice", ids=ids, **where)

    async def list_awaited(
        self, tenant_id: str, campaign_id: UUID, enqueue_number: int, *, after: int, last: int, limit: int
    ) -> list[tuple[int, str]]:
        """(phone, provider message id) of a range's recipients that were accepted and have no final report."""

        async def body(connection: AsyncConnection) -> list[tuple[int, str]]:
            key, _ = await _target(connection, tenant_id, campaign_id, enqueue_number)
            return [] if key is None else await read_awaited(connection, key, after, last, limit)

        return await self._database.run_transaction(body)

    async def _trace_batches(self, changed: Mapping[EnqueueKey, Sequence[int]]) -> None:
        """A span in the trace of each campaign whose batch was reported on, linked to the call that brought it."""
        async with self._database.connect() as connection:
            batches = await read_batches_of(connection, changed, MAX_BATCH_SPANS)
        for batch in batches:
            self._trace_reports(batch)

    def _trace_reports(self, batch: TouchedBatch) -> None:
        with self._span_in(batch.traceparent, "campaign.record_delivery_reports") as span:
            span.set_attributes(
                {
                    "bulksms.campaign_id": str(batch.campaign_id),
                    "bulksms.batch_id": str(batch.batch_id),
                    "bulksms.bulk_id": batch.bulk_id,
                    "bulksms.recipients_changed": batch.reports,
                }
            )

    def _span_in(self, traceparent: str, name: str) -> AbstractContextManager[trace.Span]:
        caller = trace.get_current_span().get_span_context()
        context = context_from_traceparent(traceparent) if traceparent else None
        links = [Link(caller)] if caller.is_valid else []
        return self._tracer.start_as_current_span(name, context=context, kind=SpanKind.INTERNAL, links=links)


async def _refused_ids(connection: AsyncConnection, key: EnqueueKey, groups: Sequence[OutcomeGroup]) -> set[str]:
    """Ids that are somebody else's already, or that two recipients of these groups were given."""
    named = [group for group in groups if group.provider_message_ids]
    ids = [message_id for group in named for message_id in group.provider_message_ids]
    phones = [phone for group in named for phone in group.phones]
    return repeated_ids(named) | await read_ids_of_others(connection, key, ids, phones)


async def _target(
    connection: AsyncConnection, tenant_id: str, campaign_id: UUID, enqueue_number: int
) -> tuple[EnqueueKey | None, ResultTarget]:
    """The enqueue that results are of, if there is one; CAMPAIGN_NOT_FOUND."""
    target = await read_result_target(connection, tenant_id, campaign_id, enqueue_number)
    if target is None:
        raise campaign_not_found(campaign_id)
    if target.launched_on is None:
        return None, target
    return EnqueueKey(tenant_id, campaign_id, enqueue_number, target.launched_on), target
