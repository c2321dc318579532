"""The refresher: asks the provider about accepted messages that have no final report, until they have one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from opentelemetry import trace
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.lookup_results import LookupResult
from bulksms_dispatcher.domain.report_refreshes import (
    Advance,
    AwaitedMessage,
    BeginRound,
    DueRefresh,
    Finish,
    RefreshSchedule,
)
from bulksms_dispatcher.metrics import Metrics
from bulksms_dispatcher.storage import report_refreshes
from bulksms_dispatcher.use_cases.awaited_reports import AwaitedReports
from bulksms_dispatcher.use_cases.paced_questions import PacedQuestions
from servicekit import logs
from servicekit.database import Database
from servicekit.errors import Category, DomainError
from servicekit.telemetry import context_from_traceparent

__all__ = ["ReportRefresher"]

# Pages, not batches, are what is held in memory and what a crash repeats.
_BATCHES_AT_ONCE = 8
_PAGE = 200
# A page that has not got its permits by then is put off; it is hidden from other replicas for longer than that.
_PAGE_TIME, _HIDE = timedelta(seconds=30), timedelta(seconds=90)
_PUT_OFF, _MIN_GAP = timedelta(seconds=5), timedelta(seconds=1)

_log = logs.get_logger("bulksms.dispatcher.refresher")
_tracer = trace.get_tracer("bulksms.dispatcher.report_refresher")


@dataclass(slots=True)
class _Page:
    """What was learnt about some awaited messages."""

    results: dict[str, LookupResult] = field(default_factory=dict)
    rest: timedelta | None = None
    """Set when the provider does not want to be asked now."""


class ReportRefresher:
    """One per process, any number of processes: a batch is hidden from the others while it is asked about."""

    def __init__(
        self,
        database: Database,
        questions: PacedQuestions,
        reports: AwaitedReports,
        metrics: Metrics,
        schedule: RefreshSchedule,
    ) -> None:
        self._database = database
        self._questions = questions
        self._reports = reports
        self._metrics = metrics
        self._schedule = schedule

    async def refresh_once(self) -> bool:
        """One round of the worker; True when there may be more."""
        async with self._database.begin() as connection:
            taken = await report_refreshes.take(connection, _BATCHES_AT_ONCE, self._schedule.first[0], _HIDE)
        results = await asyncio.gather(*(self._refresh(due) for due in taken), return_exceptions=True)
        for failure in results:
            if failure is not None:
                raise failure
        return len(taken) == _BATCHES_AT_ONCE

    async def _refresh(self, due: DueRefresh) -> None:
        context = context_from_traceparent(due.traceparent)
        with _tracer.start_as_current_span("refresh statuses", context=context) as span:
            try:
                awaited = await self._reports.list_awaited(due, _PAGE)
                page = await self._ask_about(awaited)
                final = await self._reports.record(due, page.results)
            except DomainError as error:
                await self._after_refusal(due, error)
                return
            span.set_attributes(
                {
                    "bulksms.batch_id": str(due.batch_id),
                    "bulksms.round": due.round,
                    "bulksms.awaited": len(awaited),
                    "bulksms.final": final,
                }
            )
        await self._plan(due, awaited, page)

    async def _ask_about(self, awaited: Sequence[AwaitedMessage]) -> _Page:
        page = _Page()
        try:
            async with asyncio.timeout(_PAGE_TIME.total_seconds()), asyncio.TaskGroup() as group:
                for message in awaited:
                    group.create_task(self._ask(message.message_id, page))
        except TimeoutError:
            page.rest = page.rest or _PUT_OFF
        except BaseExceptionGroup as group_error:
            raise group_error.exceptions[0] from group_error  # PacingUnavailable: nothing is asked without it
        return page

    async def _ask(self, message_id: str, page: _Page) -> None:
        result = await self._questions.ask(message_id, _PAGE_TIME, wanted=lambda: page.rest is None)
        if result is None:
            page.rest = page.rest or _PUT_OFF
            return
        self._metrics.refreshes.add(1, {"result": result.outcome.name, "status": result.status.name})
        if result.retry_after is not None:
            page.rest = result.retry_after
            return
        page.results[message_id] = result

    async def _plan(self, due: DueRefresh, awaited: Sequence[AwaitedMessage], page: _Page) -> None:
        """What follows: the same page later, the rest of the round, the next round, or nothing any more."""
        if page.rest is not None:
            rest = page.rest
            await self._write(lambda connection: report_refreshes.postpone(connection, due, rest))
            return
        async with self._database.begin() as connection:
            match due.step_after(awaited, _PAGE, self._schedule):
                case Advance(after_phone):
                    await report_refreshes.advance(connection, due, after_phone)
                case BeginRound(number, offset):
                    await report_refreshes.begin_round(connection, due, number, offset, _MIN_GAP)
                case Finish(all_reported):
                    await report_refreshes.forget(connection, due)
                    if not all_reported:
                        # The provider has been asked to the end: they stay SENT, which is all that anyone knows.
                        _log.warning("report refresh given up", batch_id=str(due.batch_id), rounds=due.round)
                        self._metrics.alarms.add(1, {"alarm": "NEVER_REPORTED"})

    async def _after_refusal(self, due: DueRefresh, error: DomainError) -> None:
        if error.category is Category.NOT_FOUND:
            await self._write(lambda connection: report_refreshes.forget(connection, due))
            return
        _log.info("report refresh put off", batch_id=str(due.batch_id), reason=error.reason)
        await self._write(lambda connection: report_refreshes.postpone(connection, due, error.retry_after or _PUT_OFF))

    async def _write(self, body: Callable[[AsyncConnection], Awaitable[None]]) -> None:
        async with self._database.begin() as connection:
            await body(connection)
