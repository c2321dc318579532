"""Imports: a CSV file streamed in, staged piece by piece, merged at the end in one transaction or not at all."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from opentelemetry import metrics
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.contact_file.refusals import empty, too_large
from bulksms_campaign.domain.contact_file.rows import ContactFile, Rows
from bulksms_campaign.storage.imports import (
    ImportCounts,
    ImportLineRow,
    create_stage,
    drop_stage,
    list_import_lines,
    merge,
    read_import,
    stage,
)
from bulksms_campaign.storage.instants import read_instant
from bulksms_campaign.use_cases.counting import ask_for_count
from bulksms_campaign.use_cases.signals import Signals
from servicekit import logs
from servicekit.database import Database, violated_constraint
from servicekit.errors import already_exists, not_found, overloaded

SLICE = 32 * 1024
"""Bytes parsed at a time: about 5 ms, after which others get their turn."""
STAGE_ROWS = 5_000
"""Rows buffered in memory before they are staged."""
SHOWN_LINES = 100
STAGE_BOUND = timedelta(seconds=10)

_log = logs.get_logger("bulksms.campaign.imports")


class ImportHeader(NamedTuple):
    """Whose file it is and how to read it."""

    import_id: UUID
    tenant_id: str
    default_region: str
    groups: tuple[str, ...]

    @property
    def content_hash(self) -> bytes:
        """What must be the same on a repeat."""
        return hashlib.sha256(repr((self.default_region, self.groups)).encode()).digest()


class ImportReport(NamedTuple):
    """What became of the lines."""

    counts: ImportCounts
    first_lines: Sequence[ImportLineRow]
    replayed: bool


class Imports:
    """ImportContacts and the reports of imports done."""

    def __init__(self, database: Database, signals: Signals, *, concurrency: int, max_bytes: int) -> None:
        self._database = database
        self._signals = signals
        self._limit = concurrency
        self._running = 0
        self._max_bytes = max_bytes
        self._lines = metrics.get_meter("bulksms.campaign.imports").create_counter(
            "campaign.import_lines", description="Lines of imported files by outcome"
        )

    async def run(self, header: ImportHeader, pieces: AsyncIterator[bytes]) -> ImportReport:
        """Import a file; a repeat gets the first report without reading it."""
        found = await self._find(header)
        if found is not None:
            return found
        if self._running >= self._limit:
            raise overloaded(
                "IMPORT_OVERLOADED",
                f"{self._limit} imports are running already: try again in a moment with the same request id.",
                retry_after=timedelta(seconds=2),
            )
        self._running += 1
        try:
            counts = await self._import(header, pieces)
        except Exception as error:
            # The same import was done at the same moment by a call that was quicker.
            if violated_constraint(error) == "imports_pkey" and (found := await self._find(header)) is not None:
                return found
            raise
        finally:
            self._running -= 1
        self._signals.count.notify()
        self._count(counts)
        _log.info("contacts imported", import_id=str(header.import_id), **counts._asdict())
        return ImportReport(counts, await self.lines(header.tenant_id, header.import_id, 0, SHOWN_LINES), False)

    async def lines(self, tenant_id: str, import_id: UUID, after: int, limit: int) -> list[ImportLineRow]:
        """Lines that were not imported, in line order; IMPORT_NOT_FOUND."""
        async with self._database.connect() as connection:
            if await read_import(connection, tenant_id, import_id) is None:
                raise not_found(
                    "IMPORT_NOT_FOUND",
                    "There is no import with this id for this tenant: check import_id; a refused file leaves none.",
                    import_id=import_id,
                )
            return await list_import_lines(connection, tenant_id, import_id, after, limit)

    async def _find(self, header: ImportHeader) -> ImportReport | None:
        async with self._database.connect() as connection:
            stored = await read_import(connection, header.tenant_id, header.import_id)
        if stored is None:
            return None
        if stored.content_hash != header.content_hash:
            raise already_exists(
                "REQUEST_ID_REUSED",
                "This request id was used for an import with another region or other groups: make a new one.",
            )
        return ImportReport(stored.counts, await self.lines(header.tenant_id, header.import_id, 0, SHOWN_LINES), True)

    async def _import(self, header: ImportHeader, pieces: AsyncIterator[bytes]) -> ImportCounts:
        async with self._database.connect() as connection:
            try:
                await create_stage(connection)
                await self._stage(connection, header, pieces)
                async with connection.begin():
                    now = await read_instant(connection)
                    counts = await merge(
                        connection, header.tenant_id, header.import_id, header.content_hash, header.groups, now
                    )
                    if header.groups:
                        await ask_for_count(connection, header.tenant_id, now)
                    return counts
            finally:
                await _leave_clean(connection)

    async def _stage(self, connection: AsyncConnection, header: ImportHeader, pieces: AsyncIterator[bytes]) -> None:
        file, buffered, size, anything = ContactFile(header.default_region), Rows(), 0, False
        async for piece in pieces:
            size += len(piece)
            if size > self._max_bytes:
                raise too_large(self._max_bytes)
            for start in range(0, len(piece), SLICE):
                _add(buffered, file.feed(piece[start : start + SLICE]))
                await asyncio.sleep(0)
            if len(buffered.contacts) + len(buffered.rejected) >= STAGE_ROWS:
                await stage(connection, buffered.contacts, buffered.rejected)
                buffered, anything = Rows(), True
        _add(buffered, file.finish())
        if not (anything or buffered.contacts or buffered.rejected):
            raise empty()
        await stage(connection, buffered.contacts, buffered.rejected)

    def _count(self, counts: ImportCounts) -> None:
        for outcome, number in counts._asdict().items():
            if outcome != "lines":
                self._lines.add(number, {"outcome": outcome})


def _add(buffered: Rows, more: Rows) -> None:
    buffered.contacts += more.contacts
    buffered.rejected += more.rejected


async def _leave_clean(connection: AsyncConnection) -> None:
    """Drop the stage, or, when that does not go, the connection with it: the next user must find it clean."""
    try:
        async with asyncio.timeout(STAGE_BOUND.total_seconds()):
            await drop_stage(connection)
    except BaseException as error:
        await connection.invalidate()
        if not isinstance(error, Exception):
            raise
        _log.warning("a stage could not be dropped; its connection was closed", error_type=type(error).__qualname__)
