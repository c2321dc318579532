"""One thread that owns the spool's connection and commits for many at once."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

__all__ = ["GroupCommitter"]

T = TypeVar("T")

# More than this in one transaction would make its waiters wait longer than one sync of the disk is worth.
_MAX_GROUP = 2_000


@dataclass(slots=True)
class _Job(Generic[T]):
    work: Callable[[sqlite3.Connection], T]
    done: asyncio.Future[T]
    result: T | None = None


class GroupCommitter:
    """Runs submitted work in order; what queues up during one commit shares the next, and its sync of the disk.

    A failure (disk full, input/output error) rolls the whole group back and is raised to everyone in it.
    """

    def __init__(self, connection: sqlite3.Connection, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._loop = loop
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="spool-writer", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def submit(self, work: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """Have it done; the future is set after the commit is on disk. Called from the event loop only."""
        job: _Job[T] = _Job(work, self._loop.create_future())
        self._jobs.put(job)
        return job.done

    async def stop(self) -> None:
        """Do what was submitted, then close the connection."""
        self._jobs.put(None)
        await self._ended.wait()

    def _run(self) -> None:
        try:
            open_for_more = True
            while open_for_more:
                group, open_for_more = self._next_group()
                if group:
                    self._commit(group)
        finally:
            self._connection.close()
            self._loop.call_soon_threadsafe(self._ended.set)

    def _next_group(self) -> tuple[list[_Job[Any]], bool]:
        group: list[_Job[Any]] = []
        job = self._jobs.get()
        while job is not None:
            group.append(job)
            if len(group) >= _MAX_GROUP:
                return group, True
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return group, True
        return group, False

    def _commit(self, group: list[_Job[Any]]) -> None:
        error: Exception | None = None
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for job in group:
                job.result = job.work(self._connection)
            self._connection.execute("COMMIT")
        except Exception as problem:  # noqa: BLE001 - this is the thread's loop boundary; the waiters raise it
            error = problem
            self._roll_back()
        self._loop.call_soon_threadsafe(_resolve, group, error)

    def _roll_back(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:
            pass  # the error that led here is the one to raise; the next BEGIN shows whether the connection is sound


def _resolve(group: list[_Job[Any]], error: Exception | None) -> None:
    for job in group:
        if job.done.done():  # its waiter gave up
            continue
        if error is None:
            job.done.set_result(job.result)
        else:
            job.done.set_exception(error)
