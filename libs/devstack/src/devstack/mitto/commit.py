"""Group commit: appends records to the accepted log and makes them durable, off the event loop."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from devstack.mitto.accepted_log import Record, RecordHeader, read_records

MAX_QUEUED = 4096
"""Requests waiting for a commit; a connection has at most one, so this is above the connection limit."""

MAX_GROUP_BYTES = 32 * 1024 * 1024

_encoder = msgspec.json.Encoder()


class LogWriter:
    """Appends to one log file. `append` returns when the record is on disk (fdatasync)."""

    def __init__(self, path: Path, on_failure: Callable[[OSError], None]) -> None:
        """`on_failure` is called on the loop when the disk fails: a simulator without a log is no ground truth."""
        self._path = path
        self._on_failure = on_failure
        self._queue: queue.Queue[_Append | None] = queue.Queue(MAX_QUEUED)
        self._thread: threading.Thread | None = None
        self._file = -1
        self._end = 0
        self.commits = 0

    def open(self) -> list[Record]:
        """Open the log, cut off a torn last record and start the writer. Returns what is there already."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # The log has destinations and texts: nobody else's to read.
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        records = list(read_records(self._path))
        self._end = records[-1].end if records else 0
        os.ftruncate(self._file, self._end)
        self._thread = threading.Thread(target=self._write_groups, name="accepted-log", daemon=True)
        self._thread.start()
        return records

    async def append(self, header: RecordHeader, body: bytes) -> int:
        """Append one record; returns the offset of its body once it is durable. `bytes` and `crc32` are filled in."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[int] = loop.create_future()
        self._queue.put_nowait(_Append(header, body, loop, future))
        return await future

    def read(self, record: Record) -> bytes:
        """The request body of a record."""
        return os.pread(self._file, record.header.bytes, record.offset)

    @property
    def end(self) -> int:
        """Length of what is durable, in bytes: where the next record starts."""
        return self._end

    def close(self) -> None:
        """Write what is queued and stop."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            os.close(self._file)

    def _write_groups(self) -> None:
        running = True
        while running:
            group: list[_Append] = []
            item = self._queue.get()
            size = 0
            while item is not None:
                group.append(item)
                size += len(item.body)
                if size >= MAX_GROUP_BYTES or self._queue.empty():
                    break
                item = self._queue.get()
            running = item is not None
            if group:
                self._write(group)

    def _write(self, group: list[_Append]) -> None:
        pieces: list[bytes] = []
        offsets: list[int] = []
        end = self._end
        for item in group:
            header = msgspec.structs.replace(item.header, bytes=len(item.body), crc32=zlib.crc32(item.body))
            line = _encoder.encode(header) + b"\n"
            offsets.append(end + len(line))
            end += len(line) + len(item.body) + 1
            pieces += (line, item.body, b"\n")
        try:
            _write_all(self._file, b"".join(pieces), self._end)
            os.fdatasync(self._file)
        except OSError as error:
            for item in group:
                item.loop.call_soon_threadsafe(self._on_failure, error)
            return
        self._end = end
        self.commits += 1
        for item, offset in zip(group, offsets, strict=True):
            item.loop.call_soon_threadsafe(_resolve, item.future, offset)


class _Append:
    __slots__ = ("body", "future", "header", "loop")

    def __init__(
        self,
        header: RecordHeader,
        body: bytes,
        loop: asyncio.AbstractEventLoop,
        future: asyncio.Future[int],
    ) -> None:
        self.header = header
        self.body = body
        self.loop = loop
        self.future = future


def _resolve(future: asyncio.Future[int], offset: int) -> None:
    if not future.done():
        future.set_result(offset)


def _write_all(file: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, offset)
        view = view[written:]
        offset += written
