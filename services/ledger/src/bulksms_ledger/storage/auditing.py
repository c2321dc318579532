"""Auditing: all that is stored of one account as of one instant, for its verification."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final
from uuid import UUID

from sqlalchemy import RowMapping, Select, literal, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_ledger.accounts import Account
from bulksms_ledger.entries import Entry, Postings
from bulksms_ledger.reservations import Reservation
from bulksms_ledger.storage.rows import account_from_row, entry_from_row, reservation_from_row
from bulksms_ledger.storage.tables import accounts, entries, lots, operations, reservations
from bulksms_ledger.verification import StoredLot, Verification
from servicekit.database import Database

_PAGE: Final = 500  # few enough that other callers are served between two pages


async def verify_account(database: Database, tenant_id: str) -> Verification | None:
    """Read everything of an account in one snapshot and verify it; None when there is no account."""
    async with database.connect() as connection:
        await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"))
        audit = _Audit(connection, tenant_id)
        account = await audit.account()
        if account is None:
            return None
        verification = Verification(tenant_id)
        async for entry, stored, on_record in audit.entries():
            verification.read(entry, stored, on_record=on_record)
        verification.compare(account, await audit.reservations(), await audit.lots())
        return verification


class _Audit:
    def __init__(self, connection: AsyncConnection, tenant_id: str) -> None:
        self._connection = connection
        self._tenant_id = tenant_id

    async def account(self) -> Account | None:
        """The account row."""
        rows = await self._fetch(select(accounts).where(accounts.c.tenant_id == self._tenant_id))
        return account_from_row(rows[0]) if rows else None

    async def entries(self) -> AsyncIterator[tuple[Entry, Postings, bool]]:
        """Every entry in version order, its postings as stored, and whether its operation is on record."""
        after = 0
        while True:
            on_record = (
                select(literal(1))
                .where(operations.c.request_id == entries.c.request_id, operations.c.tenant_id == entries.c.tenant_id)
                .exists()
            )
            rows = await self._fetch(
                select(entries, on_record.label("on_record"))
                .where(entries.c.tenant_id == self._tenant_id, entries.c.version > after)
                .order_by(entries.c.version)
                .limit(_PAGE)
            )
            for row in rows:
                moved = Postings(
                    row["granted_posting"], row["available_posting"], row["reserved_posting"], row["captured_posting"]
                )
                yield entry_from_row(row), moved, row["on_record"]
            if len(rows) < _PAGE:
                return
            after = rows[-1]["version"]

    async def reservations(self) -> dict[UUID, Reservation]:
        """Every reservation by its id."""
        rows = await self._fetch(select(reservations).where(reservations.c.tenant_id == self._tenant_id))
        return {row["reservation_id"]: reservation_from_row(row) for row in rows}

    async def lots(self) -> dict[int, StoredLot]:
        """Every lot by its version: units, available, expires_at."""
        rows = await self._fetch(select(lots).where(lots.c.tenant_id == self._tenant_id))
        return {row["version"]: (row["units"], row["available"], row["expires_at"]) for row in rows}

    async def _fetch(self, query: Select[Any]) -> Sequence[RowMapping]:
        rows: Sequence[RowMapping] = (await self._connection.execute(query)).mappings().all()
        return rows
