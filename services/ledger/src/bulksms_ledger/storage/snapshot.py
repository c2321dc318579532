"""Snapshot: all that is stored of one account at one instant, read piece by piece."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final
from uuid import UUID

from sqlalchemy import RowMapping, Select, exists, func, literal, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_ledger.domain.accounts import Account
from bulksms_ledger.domain.authorizations import AttemptTotals
from bulksms_ledger.domain.entries import Entry, Postings
from bulksms_ledger.domain.positions import POSITIONS_IN_RESERVATION
from bulksms_ledger.domain.reservations import AllocatedReservation
from bulksms_ledger.domain.verification import StoredLot
from bulksms_ledger.storage.rows import account_from_row, allocated_reservation_from_row, entry_from_row
from bulksms_ledger.storage.tables import accounts, entries, lots, operations, reservations
from servicekit.database import Database

StoredEntry = tuple[Entry, Postings, bool]
"""An entry, its postings as stored, and whether the operation that wrote it is on record."""

PAGE: Final = 500  # few enough that other callers are served between two pages


@asynccontextmanager
async def open_snapshot(database: Database, tenant_id: str) -> AsyncIterator[Snapshot]:
    """All of an account at one instant, for as long as the block lasts."""
    async with database.connect() as connection:
        await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
        yield Snapshot(connection, tenant_id)


class Snapshot:
    """What is stored of one account, as the connection's transaction sees it."""

    def __init__(self, connection: AsyncConnection, tenant_id: str) -> None:
        self._connection = connection
        self.tenant_id = tenant_id

    async def account(self) -> Account | None:
        """The account row."""
        rows = await self._fetch(select(accounts).where(accounts.c.tenant_id == self.tenant_id))
        return account_from_row(rows[0]) if rows else None

    async def entry(self, version: int) -> Entry | None:
        """One entry."""
        rows = await self._fetch(
            select(entries).where(entries.c.tenant_id == self.tenant_id, entries.c.version == version)
        )
        return entry_from_row(rows[0]) if rows else None

    async def pages(self) -> AsyncIterator[list[StoredEntry]]:
        """Every entry in version order, a page at a time."""
        after = 0
        while page := await self.entries(after, PAGE):
            yield page
            after = page[-1][0].version

    async def entries(self, after: int, limit: int) -> list[StoredEntry]:
        """Entries behind a version, in order."""
        on_record = exists(literal(1)).where(
            operations.c.request_id == entries.c.request_id,
            operations.c.tenant_id == entries.c.tenant_id,
            # A capture's operation is told from its entry, so it must be this one.
            func.coalesce(operations.c.entry_version, entries.c.version) == entries.c.version,
        )
        rows = await self._fetch(
            select(entries, on_record.label("on_record"))
            .where(entries.c.tenant_id == self.tenant_id, entries.c.version > after)
            .order_by(entries.c.version)
            .limit(limit)
        )
        return [(entry_from_row(row), _postings(row), row["on_record"]) for row in rows]

    async def reservations(self, reservation_ids: Sequence[UUID]) -> dict[UUID, AllocatedReservation]:
        """These reservations, by their ids."""
        rows = await self._fetch(
            select(reservations).where(
                reservations.c.tenant_id == self.tenant_id,
                reservations.c.reservation_id == func.any(list(reservation_ids)),
            )
        )
        return {row["reservation_id"]: allocated_reservation_from_row(row) for row in rows}

    async def attempt_totals(
        self, reservation_ids: Iterable[UUID], *, at_most: int | None = None
    ) -> dict[UUID, AttemptTotals]:
        """What the attempts of each of these reservations come to; of one more than `at_most` of them, if it is set."""
        parameters = {
            "tenant_id": self.tenant_id,
            "reservation_ids": list(reservation_ids),
            "limit": None if at_most is None else at_most + 1,
        }
        rows = await self._connection.execute(_ATTEMPT_TOTALS, parameters)
        return {
            row.reservation_id: AttemptTotals(row.attempts, int(row.authorized), int(row.captured), int(row.released))
            for row in rows
        }

    async def count_reservations(self) -> int:
        """How many reservations are stored."""
        rows = await self._fetch(
            select(func.count().label("reservations"))
            .select_from(reservations)
            .where(reservations.c.tenant_id == self.tenant_id)
        )
        return int(rows[0]["reservations"])

    async def lots(self) -> dict[int, StoredLot]:
        """Every lot by its version: units, available, expires_at."""
        rows = await self._fetch(select(lots).where(lots.c.tenant_id == self.tenant_id))
        return {row["version"]: (row["units"], row["available"], row["expires_at"]) for row in rows}

    async def _fetch(self, query: Select[Any]) -> Sequence[RowMapping]:
        rows: Sequence[RowMapping] = (await self._connection.execute(query)).mappings().all()
        return rows


_ATTEMPT_TOTALS: Final = text(f"""
SELECT reservations.reservation_id, moved.*
FROM reservations
CROSS JOIN LATERAL (
    SELECT count(*) AS attempts, coalesce(sum(authorized), 0) AS authorized, coalesce(sum(captured), 0) AS captured,
        coalesce(sum(released), 0) AS released
    FROM (
        SELECT tenant_id, authorized, captured, released FROM authorizations
        WHERE taken && int8range(
            reservations.number * {POSITIONS_IN_RESERVATION}, (reservations.number + 1) * {POSITIONS_IN_RESERVATION})
        LIMIT CAST(:limit AS bigint)
    ) AS its_attempts
    WHERE its_attempts.tenant_id = reservations.tenant_id
) AS moved
WHERE reservations.tenant_id = :tenant_id AND reservations.reservation_id = ANY (CAST(:reservation_ids AS uuid[]))
""")


def _postings(row: RowMapping) -> Postings:
    return Postings(row["granted_posting"], row["available_posting"], row["reserved_posting"], row["captured_posting"])
