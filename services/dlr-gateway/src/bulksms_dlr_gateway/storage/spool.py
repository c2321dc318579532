"""What was received, on our own disk, until somebody else has it durably."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from bulksms_dlr_gateway.domain.disposition import Disposition
from bulksms_dlr_gateway.domain.entries import Entry, SpooledEntry, SpoolSizes
from bulksms_dlr_gateway.domain.payload import Rejected
from bulksms_dlr_gateway.domain.reports import microseconds
from bulksms_dlr_gateway.metrics import commit_duration
from bulksms_dlr_gateway.storage import statements
from bulksms_dlr_gateway.storage.spool_lock import SpoolLock
from bulksms_dlr_gateway.storage.tables import open_spool_file
from bulksms_dlr_gateway.storage.writer import GroupCommitter
from servicekit import logs
from servicekit.clock import Clock

__all__ = ["Spool", "SpoolFullError", "SpoolLimits"]

T = TypeVar("T")

_log = logs.get_logger("bulksms.dlr_gateway.spool")
_MICROSECOND = timedelta(microseconds=1)
_COMMIT_TIMEOUT_SECONDS = 10.0
_VACUUM_PAGES = 1_000  # 4 MB a round: giving space back must not hold up what comes in


class SpoolFullError(Exception):
    """No more can be taken at the moment; `reason` says which bound was reached."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class SpoolLimits:
    """What the spool may hold before it takes no more."""

    max_queued: int = 50_000
    """Elements received but not yet on disk."""
    max_bytes: int = 4 * 1024**3
    min_free_bytes: int = 256 * 1024**2
    """What must be left on the disk, so that deleting (which writes too) stays possible."""
    quarantine_max_reports: int = 100_000
    quarantine_max_age: timedelta = timedelta(days=30)


class Spool:
    """A component around one SQLite file; one process per file."""

    def __init__(self, path: Path, clock: Clock, limits: SpoolLimits) -> None:
        # A folder is taken for the place of the file: that is how volumes are mounted.
        self._path = path / "spool.sqlite3" if path.is_dir() else path
        self._clock = clock
        self._limits = limits
        self._lock = SpoolLock(self._path)
        self._gathered = _Gathered()
        self._queued = 0
        self._commit_duration = commit_duration()
        self._idle = asyncio.Event()
        self._idle.set()
        self._full = ""
        self._failed = ""
        self.arrived = asyncio.Event()
        """Set whenever fresh entries were committed; who waits for it clears it."""
        self.sizes = SpoolSizes(0, 0, 0, 0, 0)
        """As of the last `maintain`."""
        self.lag = timedelta(0)
        """Age of the oldest entry not forwarded once, as of the last `maintain`."""

    async def start(self) -> None:
        """Open the file, or raise SpoolFileError."""
        self._lock.take()
        try:
            self._committer = GroupCommitter(open_spool_file(self._path), asyncio.get_running_loop())
        except BaseException:
            self._lock.release()
            raise
        self._committer.start()
        await self.maintain()

    async def stop(self) -> None:
        """Write what was accepted, then close."""
        await self._idle.wait()
        await self._committer.stop()
        self._lock.release()

    @property
    def closed_because(self) -> str:
        """Why nothing is taken at the moment; empty when all is well."""
        return self._full or self._failed

    def append(self, entries: Sequence[Entry], rejected: Sequence[Rejected] = ()) -> asyncio.Future[None]:
        """Store entries as fresh and rejected elements in the quarantine; SpoolFullError when no more is taken.

        The future is done when they are on disk. It is shared by all who are written together: shield it.
        """
        size = len(entries) + len(rejected)
        if self._full:
            raise SpoolFullError(self._full)
        if self._queued + size > self._limits.max_queued:
            raise SpoolFullError("QUEUE_FULL")
        loop = asyncio.get_running_loop()
        if self._gathered.committed is None:
            self._gathered.committed = loop.create_future()
        committed = self._gathered.committed
        self._queued += size
        self._gathered.entries.extend(entries)
        self._gathered.rejected.extend((element.reason, element.raw) for element in rejected)
        if self._idle.is_set():
            self._idle.clear()
            # After everything else that is ready now, so that the first of many is not committed alone.
            loop.call_soon(self._flush)
        return committed

    async def take_fresh(self, after: int, limit: int) -> list[SpooledEntry]:
        """The oldest fresh entries with ids beyond `after`; they stay until a disposition names them."""
        return await self._committer.submit(lambda connection: statements.take_fresh(connection, after, limit))

    async def apply_to_fresh(self, disposition: Disposition) -> None:
        """Take entries out of the fresh ones."""
        await self._apply(disposition, statements.delete_fresh)

    async def take_due(self, limit: int) -> tuple[list[SpooledEntry], timedelta | None]:
        """Waiting entries that are due, and how long until the next one is, if any waits.

        They stay until a disposition names them.
        """
        now = microseconds(self._clock.now())

        def work(connection: sqlite3.Connection) -> tuple[list[SpooledEntry], int | None]:
            return statements.take_due(connection, now, limit), statements.next_due(connection)

        due, following = await self._committer.submit(work)
        return due, None if following is None else max(following - now, 0) * _MICROSECOND

    async def apply_to_waiting(self, disposition: Disposition) -> None:
        """Take entries out of the waiting ones; those named in `waiting` come back with a new due time."""
        await self._apply(disposition, statements.delete_waiting)

    async def maintain(self) -> None:
        """Measure, check the bounds, keep the quarantine within its own; call it every second."""
        now = self._clock.now()
        oldest_kept = microseconds(now - self._limits.quarantine_max_age)

        def work(connection: sqlite3.Connection) -> tuple[SpoolSizes, int | None]:
            statements.drop_old_quarantine(connection, before=oldest_kept, keep=self._limits.quarantine_max_reports)
            sizes = statements.measure(connection)
            if not sizes.fresh:
                statements.release_space(connection, _VACUUM_PAGES)
            return sizes, statements.oldest_received_at(connection)

        dropped_before = self.sizes.quarantine_dropped
        self.sizes, oldest = await self._committer.submit(work)
        self.lag = max((microseconds(now) - oldest) * _MICROSECOND, timedelta(0)) if oldest else timedelta(0)
        if self.sizes.quarantine_dropped > dropped_before > 0:
            _log.warning("quarantine full: oldest dropped", dropped_ever=self.sizes.quarantine_dropped)
        self._check_space()

    async def _apply(
        self, disposition: Disposition, delete: Callable[[sqlite3.Connection, Sequence[int]], None]
    ) -> None:
        now = microseconds(self._clock.now())

        def work(connection: sqlite3.Connection) -> None:
            delete(connection, disposition.ids)
            if disposition.waiting:
                statements.append_waiting(connection, disposition.waiting)
            if disposition.quarantined:
                statements.quarantine_entries(connection, now, disposition.quarantined)

        await self._committer.submit(work)

    def _flush(self) -> None:
        gathered, self._gathered = self._gathered, _Gathered()
        if gathered.committed is None:
            self._idle.set()
            return
        now = microseconds(self._clock.now())

        def work(connection: sqlite3.Connection) -> None:
            if gathered.entries:
                statements.append_fresh(connection, gathered.entries)
            if gathered.rejected:
                statements.quarantine_raw(connection, now, gathered.rejected)

        begun = self._clock.monotonic()
        give_up = asyncio.get_running_loop().call_later(_COMMIT_TIMEOUT_SECONDS, _fail, gathered, "DISK_SLOW")
        job = self._committer.submit(work)

        def done(job: asyncio.Future[None]) -> None:
            give_up.cancel()
            self._commit_duration.record(self._clock.monotonic() - begun)
            self._flushed(gathered, job)

        job.add_done_callback(done)

    def _flushed(self, gathered: _Gathered, job: asyncio.Future[None]) -> None:
        self._queued -= len(gathered.entries) + len(gathered.rejected)
        error = job.exception()
        if error is None:
            if gathered.committed is not None and not gathered.committed.done():
                gathered.committed.set_result(None)
            self.arrived.set()
        else:
            _fail(gathered, "DISK_ERROR")
            _log.error("the spool could not be written", error_type=type(error).__qualname__, error=str(error))
        self._failed = "" if error is None else "DISK_ERROR"
        self._flush()

    def _check_space(self) -> None:
        disk = os.statvfs(self._path.parent)
        full = ""
        if self.sizes.used_bytes >= self._limits.max_bytes:
            full = "SPOOL_FULL"
        elif disk.f_bavail * disk.f_frsize < self._limits.min_free_bytes:
            full = "DISK_FULL"
        if full and not self._full:
            _log.error("the spool takes no more", reason=full, used_bytes=self.sizes.used_bytes)
        elif self._full and not full:
            _log.info("the spool takes reports again", used_bytes=self.sizes.used_bytes)
        self._full = full


@dataclass(slots=True)
class _Gathered:
    """What waits for the next commit, and the future of all who brought it."""

    entries: list[Entry] = field(default_factory=list)
    rejected: list[tuple[str, str]] = field(default_factory=list)
    committed: asyncio.Future[None] | None = None


def _fail(gathered: _Gathered, reason: str) -> None:
    # Slow, it may yet be written: whoever repeats it then does no harm.
    if gathered.committed is not None and not gathered.committed.done():
        gathered.committed.set_exception(SpoolFullError(reason))
