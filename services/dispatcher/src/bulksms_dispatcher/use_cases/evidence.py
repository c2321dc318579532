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
from bulksms_dispatcher.domain.protocol import BatchState
from bulksms_dispatcher.domain.provider_records import Sighting
from bulksms_dispatcher.domain.results import OPERATOR
from bulksms_dispatcher.domain.unresolved import Unresolved
from bulksms_dispatcher.metrics import Metrics
from bulksms_dispatcher.pacing.limiter import PacingUnavailable
from bulksms_dispatcher.providers.status import LookupResult
from bulksms_dispatcher.storage import evidence as storage
from bulksms_dispatcher.storage import messages, outcomes
from bulksms_dispatcher.storage.evidence import Candidate, Claimed
from bulksms_dispatcher.use_cases.paced_questions import PacedQuestions
from servicekit import logs
from servicekit.backoff import Backoff
from servicekit.database import Database

__all__ = ["EvidenceBook"]

MAX_OPEN = 200_000
MAX_TRIES = 12
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
    tries: int = 1
    """After so many it is given up."""


class EvidenceBook:
    """Reports are noted, looked into one by one, and settled batch by batch; any number of replicas may do so.

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
            await self._settle(batch_id, named)
        if matches:
            self._on_change()
        return len(claimed) == _AT_ONCE

    async def _look(self, report: Claimed, slots: asyncio.Semaphore) -> _Match | _Nothing:
        async with slots:
            if report.sighting is not None:
                return await self._match(report.provider_message_id, report.sighting)
            asked = await self._ask(report)
            if isinstance(asked, _Nothing):
                return asked
            return await self._match(report.provider_message_id, asked)

    async def _ask(self, report: Claimed) -> Sighting | _Nothing:
        """What the provider says of it; kept, so that it is asked once."""
        try:
            word = await self._questions.ask(report.provider_message_id, _PATIENCE)
        except PacingUnavailable:
            return _Nothing("NO_PACING", tries=MAX_TRIES)
        if word is None:
            return _Nothing("NO_PLACE", tries=_NEVER_GIVE_UP)  # sends and limits are no fault of the report's
        if word.result is LookupResult.UNKNOWN:
            # Perhaps not yet: its reports may be quicker than its books.
            return _Nothing("PROVIDER_DOES_NOT_KNOW", tries=MAX_TRIES)
        if word.result not in (LookupResult.KNOWN, LookupResult.UNREADABLE):
            return _Nothing("PROVIDER_UNAVAILABLE", tries=MAX_TRIES)
        if word.sighting is None:
            return _Nothing("SIGHTING_UNREADABLE")
        async with self._database.begin() as connection:
            await storage.save_sighting(connection, report.provider_message_id, word.sighting)
        return word.sighting

    async def _match(self, message_id: str, sighting: Sighting) -> _Match | _Nothing:
        earliest, latest = sighting.created_at - self._window, sighting.created_at + self._window
        async with self._database.connect() as connection:
            # Before the candidates: who is named in between is no candidate any more, and has taken his id with him.
            twins = await storage.find_twins(connection, sighting)
            candidates = await storage.find_candidates(
                connection, sighting.destination, earliest, latest, _MAX_CANDIDATES
            )
            places = [
                (candidate, position)
                for candidate in candidates
                if (position := candidate.batch.position_of(sighting)) is not None
                and not await storage.is_named(connection, candidate.batch.batch_id, position)
            ]
            # What an operator calls not sent is a candidate when nothing else is.
            places = [place for place in places if place[0].batch.state is not BatchState.REJECTED] or places
            if not places:
                return _Nothing("NO_CANDIDATE", tries=3)
            # Asked after the candidates: what was on the wire then and was answered since is seen here.
            if self._is_own(message_id) or await storage.is_of_accepted_batch(
                connection, message_id, sighting.destination, earliest
            ):
                return _Nothing("KNOWN")
        doubt = _doubt(places, len(candidates), len(twins))
        if doubt is not None or message_id not in twins:
            return doubt or _Nothing("NOT_UNIQUE", tries=MAX_TRIES)
        candidate, position = places[twins.index(message_id)]
        return _Match(message_id, candidate.batch.batch_id, candidate.batch.epoch, position)

    async def _keep(self, report: Claimed, nothing: _Nothing) -> None:
        again = report.tries < nothing.tries
        async with self._database.begin() as connection:
            if again:
                delay = _BACKOFF.after(report.tries)
                await storage.postpone(connection, report.provider_message_id, delay, nothing.reason)
            else:
                await storage.give_up(connection, report.provider_message_id, nothing.reason)
        if not again:
            self._metrics.evidence.add(1, {"result": nothing.reason})
            _log.warning("evidence kept: it proves nothing", reason=nothing.reason, tries=report.tries)

    async def _settle(self, batch_id: UUID, named: Sequence[_Match]) -> None:
        async with self._database.begin() as connection:
            batch = await storage.lock_unresolved(connection, batch_id)
            if batch is None or batch.epoch != named[0].epoch or not _lacks_ids(batch):
                return  # it has moved on: what it moved to is found when the report is looked into again
            new = [match for match in named if await self._assign(connection, match)]
            if new:
                await self._tell(connection, batch, new)
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

    async def _tell(self, connection: AsyncConnection, batch: Unresolved, new: Sequence[_Match]) -> None:
        evidenced = batch.evidenced + len(new)
        if batch.state is BatchState.AMBIGUOUS and batch.is_complete(evidenced):
            ids = await storage.read_ids(connection, batch.batch_id)
            await outcomes.settle(
                connection, batch.batch_id, batch.epoch, (BatchState.AMBIGUOUS,), batch.accepted_by_evidence(ids)
            )
            return
        in_order = sorted(new, key=lambda match: match.position)
        if batch.is_single_message:
            await messages.name(connection, batch.submission_id, in_order[0].message_id)
        await outcomes.tell_part(
            connection,
            batch.batch_id,
            batch.epoch,
            batch.state,
            evidenced,
            [match.position for match in in_order],
            [match.message_id for match in in_order],
            campaign=not batch.is_single_message,
            # Of an AMBIGUOUS batch they are captured when it is settled; of one an operator vouched for they were.
            captured=batch.state in (BatchState.UNKNOWN, BatchState.REJECTED),
        )

    def _is_own(self, message_id: str) -> bool:
        return self._known.includes_any([message_id])


def _doubt(places: Sequence[tuple[Candidate, int]], candidates: int, twins: int) -> _Nothing | None:
    """Why a sighting may not be of one of these recipients, who have no ids yet; None when it must be.

    One message and one recipient who can be meant, or several of both that cannot be told apart: so many messages, and
    just so many recipients who were each sent one at most, so each was sent one. They are given their ids in the order
    in which they were sent.
    """
    if any(candidate.batch.state is BatchState.ARMED for candidate, _ in places):
        return _Nothing("STILL_SENDING", tries=MAX_TRIES)
    if twins != len(places) or candidates == _MAX_CANDIDATES:
        return _Nothing("NOT_UNIQUE", tries=MAX_TRIES)
    if not all(candidate.in_window for candidate, _ in places):
        return _Nothing("OUTSIDE_WINDOW", tries=MAX_TRIES)
    return None


def _lacks_ids(batch: Unresolved) -> bool:
    return batch.state in (BatchState.AMBIGUOUS, BatchState.UNKNOWN) or (
        batch.state in (BatchState.ACCEPTED, BatchState.REJECTED) and batch.reason == OPERATOR
    )
