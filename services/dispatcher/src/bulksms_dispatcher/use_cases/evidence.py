"""Evidence: a report for an id nobody knows resolves the one recipient it can be of, or proves nothing and is kept."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.known_ids import KnownIds
from bulksms_dispatcher.domain.lookup_results import LookupOutcome
from bulksms_dispatcher.domain.protocol import BatchState
from bulksms_dispatcher.domain.provider_records import ProviderRecord
from bulksms_dispatcher.domain.results import OPERATOR
from bulksms_dispatcher.domain.unresolved import Unresolved
from bulksms_dispatcher.metrics import Metrics
from bulksms_dispatcher.pacing.limiter import PacingUnavailable
from bulksms_dispatcher.storage import evidence as storage
from bulksms_dispatcher.storage import messages, outcomes
from bulksms_dispatcher.storage.evidence import Candidate, OpenReport
from bulksms_dispatcher.use_cases.paced_questions import PacedQuestions
from servicekit import logs
from servicekit.backoff import Backoff
from servicekit.database import Database

__all__ = ["EvidenceSearch"]

MAX_OPEN = 200_000
MAX_ATTEMPTS = 12
_AT_ONCE = 50
_MAX_CANDIDATES = 100
# Looked into twice does no harm, so what a process that dies has taken is not hidden for long.
_HIDE = timedelta(seconds=15)
_BACKOFF = Backoff(timedelta(seconds=1), longest=timedelta(minutes=2))
_PATIENCE = timedelta(seconds=10)
_NEVER_GIVE_UP = sys.maxsize
_log = logs.get_logger("bulksms.dispatcher.evidence")


@dataclass(frozen=True, slots=True)
class _Match:
    """A report, and the one recipient it can be of."""

    message_id: str
    batch_id: UUID
    epoch: int
    position: int


@dataclass(frozen=True, slots=True)
class _Nothing:
    """What a report does not prove, and whether asking again may help."""

    reason: str
    attempts: int = 1
    """After so many it is given up."""


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

    async def note(self, reports: Sequence[tuple[str, str]]) -> None:
        """Keep (message id, raw status) of reports that are nobody's, when they may be of an unresolved batch."""
        wanted = sorted({report for report in reports if 0 < len(report[0]) <= 64 and not self._is_own(report[0])})
        if not wanted:
            return
        async with self._database.begin() as connection:
            if not await storage.has_candidates(connection):
                return
            room = MAX_OPEN - await storage.count_open(connection)
            noted = await storage.note(connection, wanted[: max(room, 0)])
        if noted:
            self._metrics.evidence.add(noted, {"result": "NOTED"})

    async def look_once(self) -> bool:
        """One round of the worker; True when there may be more."""
        async with self._database.begin() as connection:
            claimed = await storage.take_open(connection, _AT_ONCE, _HIDE)
        if not claimed:
            return False
        slots = asyncio.Semaphore(self._concurrency)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._look(report, slots)) for report in claimed]
        found = [(report, task.result()) for report, task in zip(claimed, tasks, strict=True)]
        matches: dict[UUID, list[_Match]] = {}
        for report, result in found:
            if isinstance(result, _Match):
                matches.setdefault(result.batch_id, []).append(result)
            else:
                await self._keep(report, result)
        for batch_id, named in matches.items():
            await self._record(batch_id, named)
        if matches:
            self._on_change()
        return len(claimed) == _AT_ONCE

    async def _look(self, report: OpenReport, slots: asyncio.Semaphore) -> _Match | _Nothing:
        async with slots:
            if report.provider_record is not None:
                return await self._match(report.provider_message_id, report.provider_record)
            asked = await self._ask(report)
            if isinstance(asked, _Nothing):
                return asked
            return await self._match(report.provider_message_id, asked)

    async def _ask(self, report: OpenReport) -> ProviderRecord | _Nothing:
        """What the provider says of it; kept, so that it is asked once."""
        try:
            result = await self._questions.ask(report.provider_message_id, _PATIENCE)
        except PacingUnavailable:
            return _Nothing("NO_PACING", attempts=MAX_ATTEMPTS)
        if result is None:
            return _Nothing("NO_PERMIT", attempts=_NEVER_GIVE_UP)  # sends and limits are no fault of the report's
        if result.outcome is LookupOutcome.NOT_FOUND:
            # Perhaps not yet: its reports may be quicker than its records.
            return _Nothing("PROVIDER_DOES_NOT_KNOW", attempts=MAX_ATTEMPTS)
        if result.outcome not in (LookupOutcome.KNOWN, LookupOutcome.UNREADABLE):
            return _Nothing("PROVIDER_UNAVAILABLE", attempts=MAX_ATTEMPTS)
        if result.provider_record is None:
            return _Nothing("PROVIDER_RECORD_UNREADABLE")
        async with self._database.begin() as connection:
            await storage.save_provider_record(connection, report.provider_message_id, result.provider_record)
        return result.provider_record

    async def _match(self, message_id: str, provider_record: ProviderRecord) -> _Match | _Nothing:
        earliest, latest = provider_record.created_at - self._window, provider_record.created_at + self._window
        async with self._database.connect() as connection:
            # Before the candidates: who is named in between is no candidate any more, and has taken his id with him.
            indistinguishable = await storage.find_indistinguishable(connection, provider_record)
            candidates = await storage.find_candidates(
                connection, provider_record.destination, earliest, latest, _MAX_CANDIDATES
            )
            recipients = [
                (candidate, position)
                for candidate in candidates
                if (position := candidate.batch.position_of(provider_record)) is not None
                and not await storage.is_named(connection, candidate.batch.batch_id, position)
            ]
            # What an operator calls not sent is a candidate when nothing else is.
            recipients = [
                recipient for recipient in recipients if recipient[0].batch.state is not BatchState.REJECTED
            ] or recipients
            if not recipients:
                return _Nothing("NO_CANDIDATE", attempts=3)
            # Asked after the candidates: what was on the wire then and was responded to since is seen here.
            if self._is_own(message_id) or await storage.is_of_accepted_batch(
                connection, message_id, provider_record.destination, earliest
            ):
                return _Nothing("KNOWN")
        obstacle = _why_not(recipients, len(candidates), len(indistinguishable))
        if obstacle is not None or message_id not in indistinguishable:
            return obstacle or _Nothing("NOT_UNIQUE", attempts=MAX_ATTEMPTS)
        candidate, position = recipients[indistinguishable.index(message_id)]
        return _Match(message_id, candidate.batch.batch_id, candidate.batch.epoch, position)

    async def _keep(self, report: OpenReport, nothing: _Nothing) -> None:
        again = report.attempts < nothing.attempts
        async with self._database.begin() as connection:
            if again:
                delay = _BACKOFF.after(report.attempts)
                await storage.postpone(connection, report.provider_message_id, delay, nothing.reason)
            else:
                await storage.give_up(connection, report.provider_message_id, nothing.reason)
        if not again:
            self._metrics.evidence.add(1, {"result": nothing.reason})
            _log.warning("evidence kept: it proves nothing", reason=nothing.reason, attempts=report.attempts)

    async def _record(self, batch_id: UUID, named: Sequence[_Match]) -> None:
        async with self._database.begin() as connection:
            batch = await storage.lock_unresolved(connection, batch_id)
            if batch is None or batch.epoch != named[0].epoch or not _lacks_ids(batch):
                return  # it has moved on: what it moved to is found when the report is looked into again
            new = [match for match in named if await self._assign(connection, match)]
            if new:
                await self._report(connection, batch, new)
        self._metrics.evidence.add(len(new), {"result": "MATCHED"})
        _log.warning(
            "recipients resolved by evidence",
            batch_id=str(batch_id),
            state=batch.state.name,
            recipients=len(new),
            resolved=batch.evidenced + len(new),
        )

    async def _assign(self, connection: AsyncConnection, match: _Match) -> bool:
        has = await storage.assign(connection, match.message_id, match.batch_id, match.position)
        if has not in ("", match.message_id):
            # The same number, the same text, the same time, and two messages.
            self._metrics.alarms.add(1, {"alarm": "SECOND_ID"})
            _log.error("batch needs attention", batch_id=str(match.batch_id), reason="SECOND_ID")
            await storage.give_up(connection, match.message_id, "SECOND_ID")
        return has == match.message_id

    async def _report(self, connection: AsyncConnection, batch: Unresolved, new: Sequence[_Match]) -> None:
        evidenced = batch.evidenced + len(new)
        if batch.state is BatchState.AMBIGUOUS and batch.is_complete(evidenced):
            ids = await storage.read_ids(connection, batch.batch_id)
            await outcomes.record(
                connection, batch.batch_id, batch.epoch, (BatchState.AMBIGUOUS,), batch.accepted_by_evidence(ids)
            )
            return
        in_order = sorted(new, key=lambda match: match.position)
        if batch.is_single_message:
            await messages.name(connection, batch.submission_id, in_order[0].message_id)
        await outcomes.report_part(
            connection,
            batch.batch_id,
            batch.epoch,
            batch.state,
            evidenced,
            [match.position for match in in_order],
            [match.message_id for match in in_order],
            campaign=not batch.is_single_message,
            # Of an AMBIGUOUS batch they are captured when it is resolved; of one an operator has confirmed they were.
            captured=batch.state in (BatchState.UNRESOLVED, BatchState.REJECTED),
        )

    def _is_own(self, message_id: str) -> bool:
        return self._known.includes_any([message_id])


def _why_not(recipients: Sequence[tuple[Candidate, int]], candidates: int, indistinguishable: int) -> _Nothing | None:
    """Why a provider_record may not be of one of these recipients, who have no ids yet; None when it must be.

    One message and one recipient who can be meant, or several of both that cannot be told apart: so many messages, and
    just so many recipients who were each sent one at most, so each was sent one. They are given their ids in the order
    in which they were sent.
    """
    if any(candidate.batch.state is BatchState.ARMED for candidate, _ in recipients):
        return _Nothing("STILL_SENDING", attempts=MAX_ATTEMPTS)
    if indistinguishable != len(recipients) or candidates == _MAX_CANDIDATES:
        return _Nothing("NOT_UNIQUE", attempts=MAX_ATTEMPTS)
    if not all(candidate.in_window for candidate, _ in recipients):
        return _Nothing("OUTSIDE_WINDOW", attempts=MAX_ATTEMPTS)
    return None


def _lacks_ids(batch: Unresolved) -> bool:
    return batch.state in (BatchState.AMBIGUOUS, BatchState.UNRESOLVED) or (
        batch.state in (BatchState.ACCEPTED, BatchState.REJECTED) and batch.reason == OPERATOR
    )
