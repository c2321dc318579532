"""The loop around every task: claim, keep the lease alive, do it, then finish, postpone or hand it back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.storage.tasks import (
    Task,
    TaskKind,
    claim_task,
    extend_lease,
    finish_task,
    hand_back_task,
    postpone_task,
)
from servicekit import logs
from servicekit.backoff import Backoff
from servicekit.database import Database, is_transient
from servicekit.errors import DomainError
from servicekit.worker import PeriodicWorker

POLL = timedelta(seconds=1)
"""How late work of another replica is noticed at most; work of this process is signalled."""
BACKOFF = Backoff(timedelta(milliseconds=250), longest=timedelta(minutes=1))

_log = logs.get_logger("bulksms.campaign.tasks")

Work = Callable[[Task], Awaitable[timedelta | None]]
"""Does a task; None when it is done, or how long to wait before going on with it."""

End = Callable[[AsyncConnection], Awaitable[None]]
"""Writes how the claim of a task ends."""


class TaskWorker:
    """Does tasks of one kind, one at a time; have several for more at once."""

    def __init__(self, database: Database, kind: TaskKind, work: Work, *, lease: timedelta) -> None:
        self._database = database
        self._kind = kind
        self._work = work
        self._lease = lease
        self._listeners: list[Callable[[], None]] = []
        self._unwritten: list[End] = []

    def worker(self, number: int = 0) -> PeriodicWorker:
        """The component that runs it."""
        # A launch takes as long as it takes: its steps have their own bounds, and its lease shows that it lives.
        name = f"bulksms.campaign.{self._kind.name.lower()}.{number}"
        worker = PeriodicWorker(name, POLL, self.do_one, body_timeout=None)
        self._listeners.append(worker.notify)
        return worker

    async def do_one(self) -> bool:
        """Claim a task and do it; False when none is due."""
        await self._write_ends()
        task = await self._database.run_transaction(lambda c: claim_task(c, self._kind, self._lease))
        if task is None:
            return False
        try:
            delay = await self._under_lease(task)
        except DomainError as error:
            delay = error.retry_after or BACKOFF.after(task.attempts + 1)
            level = _log.info if error.retryable else _log.warning
            level("task postponed", **_described(task), reason=error.reason, delay_seconds=delay.total_seconds())
        except asyncio.CancelledError:
            async with asyncio.timeout(5):
                await self._end(lambda c: hand_back_task(c, task))
            raise
        except Exception:
            # Recorded as a failed attempt first, so that a task that always fails does not delay the others.
            await self._end(lambda c: postpone_task(c, task, BACKOFF.after(task.attempts + 1)))
            raise
        if delay is None:
            await self._end(lambda c: finish_task(c, task))
        else:
            postponed = delay
            await self._end(lambda c: postpone_task(c, task, postponed))
            if delay < POLL:
                asyncio.get_running_loop().call_later(delay.total_seconds(), self._notify_all)
        return True

    async def _end(self, end: End) -> None:
        """Write how a claim ends; what the database is away for is written in a later round.

        Without that the task would wait for the end of a lease whose owner has let go of it. Every end names its
        lease, so it does nothing where that has run out and the task is another's.
        """
        try:
            await self._database.run_transaction(end)
        except Exception as error:
            if is_transient(error):
                self._unwritten.append(end)
            raise

    async def _write_ends(self) -> None:
        while self._unwritten:
            await self._end(self._unwritten.pop())

    def _notify_all(self) -> None:
        for listener in self._listeners:
            listener()

    async def _under_lease(self, task: Task) -> timedelta | None:
        """Do it, extending the lease; stop doing it when the lease is lost."""
        working: asyncio.Future[timedelta | None] = asyncio.ensure_future(self._work(task))
        try:
            while True:
                done, _ = await asyncio.wait({working}, timeout=self._lease.total_seconds() / 3)
                if done and working.cancelled():
                    # Cancelled from within, as gRPC does when its channel breaks: not a reason to end this worker.
                    return BACKOFF.after(task.attempts + 1)
                if done:
                    return working.result()
                if not await self._database.run_transaction(lambda c: extend_lease(c, task, self._lease)):
                    _log.warning("lease lost", **_described(task))
                    return timedelta(0)
        finally:
            if not working.done():
                working.cancel()
                await asyncio.wait({working})


def _described(task: Task) -> dict[str, object]:
    return {"task": task.kind.name, "subject": str(task.subject), "attempts": task.attempts}
