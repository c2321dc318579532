"""Evidence: a report for an id nobody knows resolves the one recipient it can be of, or proves nothing and is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.batches import BatchKey
from bulksms_dispatcher.domain.evidence import (
    MAX_ATTEMPTS,
    NEVER_GIVE_UP,
    Candidate,
    Inconclusive,
    Match,
    OpenReport,
    find_match,
)
from bulksms_dispatcher.domain.known_ids import KnownIds
from bulksms_dispatcher.domain.lookup_results import LookupOutcome
from bulksms_dispatcher.domain.messages import DeliveryEvidence, fold_evidence
from bulksms_dispatcher.domain.protocol import BatchState
from bulksms_dispatcher.domain.provider_records import ProviderRecord
from bulksms_dispatcher.domain.unresolved import Unresolved
from bulksms_dispatcher.metrics import Metrics
from bulksms_dispatcher.pacing.limiter import PacingUnavailable
from bulksms_dispatcher.storage import evidence, messages, outcomes, provider_responses, results, unresolved
from bulksms_dispatcher.use_cases.paced_questions import PacedQuestions
from servicekit import logs
from servicekit.backoff import Backoff
from servicekit.database import Database

__all__ = ["EvidenceSearch"]

MAX_OPEN = 200_000
_AT_ONCE = 50
_MAX_NEARBY = 100
# Looked into twice does no harm, so what a process that dies has taken is not hidden for long.
_HIDE = timedelta(seconds=15)
_BACKOFF = Backoff(timedelta(seconds=1), longest=timedelta(minutes=2))
_PATIENCE = timedelta(seconds=10)
_log = logs.get_logger("bulksms.dispatcher.evidence")


class EvidenceSearch:
    """Reports are noted, looked into one by one, and recorded batch by batch; any number of replicas may do so.

    A recipient is resolved by evidence that names him and nobody else. The batch is ACCEPTED once all its recipients
    are: that one message of a bulk exists does not prove that the others do (mitto.md: a partly refused bulk is
    unknown). Its credits are captured when it leaves AMBIGUOUS, so that they are captured once.
    """

    def __init__(
        self,
        database: Database,
        questions: PacedQuestions,
        known: KnownIds,
        metrics: Metrics,
        *,
        concurrency: int,
        window: timedelta,
        on_change: Callable[[], None],
    ) -> None:
        self._database = database
        self._questions = questions
        self._concurrency = concurrency
        self._known = known
        self._metrics = metrics
        self._window = window
        self._on_change = on_change

    async def note(self, reports: Sequence[DeliveryEvidence]) -> None:
        """Keep reports that are nobody's, when they may be of an unresolved batch."""
        wanted = [report for report in fold_evidence(reports) if self._may_be_anybodys(report.provider_message_id)]
        if not wanted:
            return
        async with self._database.begin() as connection:
            if not await unresolved.are_there_any(connection):
                return
            room = MAX_OPEN - await evidence.count_open(connection)
            noted = await evidence.note(connection, wanted[: max(room, 0)])
        if noted:
            self._metrics.evidence.add(noted, {"result": "NOTED"})

    async def look_once(self) -> bool:
        """One round of the worker; True when there may be more."""
        async with self._database.begin() as connection:
            claimed = await evidence.take_open(connection, _AT_ONCE, _HIDE)
        if not claimed:
            return False
        slots = asyncio.Semaphore(self._concurrency)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._look(report, slots)) for report in claimed]
        found = [(report, task.result()) for report, task in zip(claimed, tasks, strict=True)]
        matches: dict[BatchKey, list[Match]] = {}
        for report, result in found:
            if isinstance(result, Match):
                matches.setdefault(result.batch, []).append(result)
            else:
                await self._keep(report, result)
        for batch, named in matches.items():
            await self._record(batch, named)
        if matches:
            self._on_change()
        return len(claimed) == _AT_ONCE

    async def _look(self, report: OpenReport, slots: asyncio.Semaphore) -> Match | Inconclusive:
        async with slots:
            if report.provider_record is not None:
                return await self._match(report.provider_message_id, report.provider_record)
            asked = await self._ask(report)
            if isinstance(asked, Inconclusive):
                return asked
            return await self._match(report.provider_message_id, asked)

    async def _ask(self, report: OpenReport) -> ProviderRecord | Inconclusive:
        """What the provider says of it; kept, so that it is asked once."""
        try:
            result = await self._questions.ask(report.provider_message_id, _PATIENCE)
        except PacingUnavailable:
            return Inconclusive("NO_PACING", attempts=MAX_ATTEMPTS)
        if result is None:
            return Inconclusive("NO_PERMIT", attempts=NEVER_GIVE_UP)  # sends and limits are no fault of the report's
        if result.outcome is LookupOutcome.NOT_FOUND:
            # Perhaps not yet: its reports may be quicker than its records.
            return Inconclusive("PROVIDER_DOES_NOT_KNOW", attempts=MAX_ATTEMPTS)
        if result.outcome not in (LookupOutcome.KNOWN, LookupOutcome.UNREADABLE):
            return Inconclusive("PROVIDER_UNAVAILABLE", attempts=MAX_ATTEMPTS)
        if result.provider_record is None:
            return Inconclusive("PROVIDER_RECORD_UNREADABLE")
        async with self._database.begin() as connection:
            await evidence.save_provider_record(connection, report.provider_message_id, result.provider_record)
        return result.provider_record

    async def _match(self, message_id: str, provider_record: ProviderRecord) -> Match | Inconclusive:
        earliest, latest = provider_record.created_at - self._window, provider_record.created_at + self._window
        async with self._database.connect() as connection:
            # Before the candidates: who is named in between is no candidate any more, and has taken his id with him.
            indistinguishable = await evidence.find_indistinguishable(connection, provider_record)
            nearby = await unresolved.find_nearby(
                connection, provider_record.destination, earliest, latest, _MAX_NEARBY
            )
            candidates = [
                Candidate(each.batch, position, each.in_window)
                for each in nearby
                if (position := each.batch.position_of(provider_record)) is not None
                and not await evidence.is_named(connection, each.batch.key, position)
            ]
            # What an operator calls not sent is a candidate when nothing else is.
            candidates = [one for one in candidates if one.batch.state is not BatchState.REJECTED] or candidates
            if not candidates:
                return Inconclusive("NO_CANDIDATE", attempts=3)
            # Asked after the candidates: what was on the wire then and has a response since is seen here.
            if self._is_own(message_id) or await provider_responses.gave_out(
                connection, message_id, provider_record.destination, earliest
            ):
                return Inconclusive("KNOWN")
        return find_match(message_id, indistinguishable, candidates, all_seen=len(nearby) < _MAX_NEARBY)

    async def _keep(self, report: OpenReport, nothing: Inconclusive) -> None:
        again = report.attempts < nothing.attempts
        async with self._database.begin() as connection:
            if again:
                delay = _BACKOFF.after(report.attempts)
                await evidence.postpone(connection, report.provider_message_id, delay, nothing.reason)
            else:
                await evidence.give_up(connection, report.provider_message_id, nothing.reason)
        if not again:
            self._metrics.evidence.add(1, {"result": nothing.reason})
            _log.warning("evidence kept: it proves nothing", reason=nothing.reason, attempts=report.attempts)

    async def _record(self, key: BatchKey, named: Sequence[Match]) -> None:
        async with self._database.begin() as connection:
            batch = await unresolved.lock(connection, key.batch_id)
            if batch is None or batch.key != key or not batch.lacks_ids:
                return  # it has moved on: what it moved to is found when the report is looked into again
            new = [match for match in named if await self._assign(connection, match)]
            if new:
                await self._report(connection, batch, new)
        self._metrics.evidence.add(len(new), {"result": "MATCHED"})
        _log.warning(
            "recipients resolved by evidence",
            batch_id=str(key.batch_id),
            state=batch.state.name,
            recipients=len(new),
            resolved=batch.evidenced + len(new),
        )

    async def _assign(self, connection: AsyncConnection, match: Match) -> bool:
        has = await evidence.assign(connection, match.provider_message_id, match.batch, match.position)
        if has not in ("", match.provider_message_id):
            # The same number, the same text, the same time, and two messages.
            self._metrics.alarms.add(1, {"alarm": "SECOND_ID"})
            _log.error("batch needs attention", batch_id=str(match.batch.batch_id), reason="SECOND_ID")
            await evidence.give_up(connection, match.provider_message_id, "SECOND_ID")
        return has == match.provider_message_id

    async def _report(self, connection: AsyncConnection, batch: Unresolved, new: Sequence[Match]) -> None:
        evidenced = batch.evidenced + len(new)
        if batch.state is BatchState.AMBIGUOUS and batch.is_complete(evidenced):
            ids = await evidence.read_ids(connection, batch.key)
            await outcomes.record(connection, batch.key, (BatchState.AMBIGUOUS,), batch.accepted_by_evidence(ids))
            return
        in_order = sorted(new, key=lambda match: match.position)
        if batch.is_single_message:
            await messages.name(connection, batch.tenant_id, batch.submission_id, in_order[0].provider_message_id)
        await results.queue_part(
            connection,
            batch.key,
            batch.state,
            evidenced,
            [match.position for match in in_order],
            batch.indexes_of([match.position for match in in_order]),
            [match.provider_message_id for match in in_order],
            kinds=batch.kinds_of_late_results,
        )

    def _may_be_anybodys(self, message_id: str) -> bool:
        return 0 < len(message_id) <= 64 and not self._is_own(message_id)

    def _is_own(self, message_id: str) -> bool:
        return self._known.includes_any([message_id])
