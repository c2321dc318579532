"""The journal: a response is on disk before anything is concluded from it, and forgotten once the database has it."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from pathlib import Path

from bulksms_dispatcher.journal.records import JournalRecord, encode
from bulksms_dispatcher.journal.slots import Slot, claim_any
from bulksms_dispatcher.metrics import Metrics
from servicekit import logs
from servicekit.settings import SettingsError

__all__ = ["Journal"]

# Large enough that files are seldom made, small enough to be read at once after a crash.
SEGMENT_BYTES = 16 * 1024 * 1024
APPEND_TIMEOUT_SECONDS = 5.0
_log = logs.get_logger("bulksms.dispatcher.journal")


class Journal:
    """A component. All responses that come while one fsync is under way share the next one.

    A disk that fails costs the second copy, not the response: it is reported, and sending goes on.
    """

    name = "journal"

    def __init__(self, folder: Path, metrics: Metrics, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.folder = folder
        self.left_behind: list[Path] = []
        """Segments found in the own slot at the start, for the recovery."""
        self._metrics = metrics
        self._segment_bytes = segment_bytes
        self._slot: Slot | None = None
        self._file: int | None = None
        self._path = Path()
        self._size = 0
        self._uncommitted: Counter[Path] = Counter()
        self._waiting: list[tuple[bytes, asyncio.Future[Path]]] = []
        self._arrived = asyncio.Event()
        self._stopping = False
        self._writing = asyncio.Lock()

    async def start(self) -> None:
        """Lock a slot of the folder."""
        try:
            self._slot = await asyncio.to_thread(claim_any, self.folder)
        except OSError as error:
            raise SettingsError(
                f"JOURNAL_PATH: {self.folder} cannot be used ({error.strerror or error}): "
                "set it to a folder this process may write to, on a disk that outlives it"
            ) from error
        self.left_behind = self._slot.segments()

    async def append(self, record: JournalRecord) -> Path | None:
        """Put a response on disk; returns the ticket that `committed` takes, None when the disk failed."""
        written: asyncio.Future[Path] = asyncio.get_running_loop().create_future()
        self._waiting.append((encode(record), written))
        self._arrived.set()
        try:
            async with asyncio.timeout(APPEND_TIMEOUT_SECONDS):
                return await written
        except (OSError, TimeoutError) as error:
            self._metrics.journal_failures.add(1)
            _log.error("response not journaled", batch_id=str(record.batch_id), error_type=type(error).__name__)
            return None

    def committed(self, ticket: Path | None) -> None:
        """The database has what this ticket stands for."""
        if ticket is None:
            return
        self._uncommitted[ticket] -= 1
        if not self._uncommitted[ticket]:
            del self._uncommitted[ticket]
            if ticket != self._path:
                ticket.unlink(missing_ok=True)

    async def run(self) -> None:
        """Write until stopped."""
        while not self._stopping or self._waiting:
            await self._arrived.wait()
            self._arrived.clear()
            while self._waiting:
                await self._write_round()

    async def stop(self) -> None:
        """Write what waits; a journal of which everything is committed leaves no file behind."""
        self._stopping = True
        self._arrived.set()
        while self._waiting:
            await self._write_round()
        self._close_segment()
        if self._slot is not None:
            self._slot.release()
            self._slot = None

    async def _write_round(self) -> None:
        async with self._writing:
            await self._write_waiting()

    async def _write_waiting(self) -> None:
        taken, self._waiting = self._waiting, []
        data = b"".join(record for record, _ in taken)
        if self._size + len(data) > self._segment_bytes:
            self._close_segment()
        try:
            path = await asyncio.to_thread(self._write, data)
        except OSError as error:
            self._close_segment()  # what an fsync that failed has left of it, nobody knows
            for _, written in taken:
                if not written.done():
                    written.set_exception(error)
            return
        for _, written in taken:
            if not written.done():
                self._uncommitted[path] += 1
                written.set_result(path)

    def _write(self, data: bytes) -> Path:
        """In a thread; one at a time."""
        if self._file is None:
            self._open_segment()
        assert self._file is not None  # noqa: S101 - just opened
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]
        os.fdatasync(self._file)
        self._size += len(data)
        return self._path

    def _open_segment(self) -> None:
        assert self._slot is not None  # noqa: S101 - started
        self._path = self._slot.next_segment()
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = 0
        # The file's name must survive as well.
        folder = os.open(self._slot.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _close_segment(self) -> None:
        if self._file is None:
            return
        os.close(self._file)
        self._file = None
        if not self._uncommitted[self._path]:
            del self._uncommitted[self._path]
            self._path.unlink(missing_ok=True)
        self._path, self._size = Path(), 0
