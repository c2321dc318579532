"""Reading: accounts, balances, reservations and entries, without locks."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from sqlalchemy import RowMapping, Select, literal, select, text

from bulksms_ledger.domain.accounts import Account, Balance
from bulksms_ledger.domain.entries import Entry
from bulksms_ledger.domain.reservations import Reservation, ReservationState
from bulksms_ledger.storage.rows import account_from_row, entry_from_row, reservation_from_row
from bulksms_ledger.storage.tables import accounts, entries, lots, reservations
from servicekit.database import Database


class Reader:
    """The ledger's queries; each is one statement and so sees one instant."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def account(self, tenant_id: str) -> Account | None:
        """One account."""
        rows = await self._fetch(select(accounts).where(accounts.c.tenant_id == tenant_id))
        return account_from_row(rows[0]) if rows else None

    async def accounts(self, *, after: str | None, limit: int) -> list[Account]:
        """Accounts in tenant id order."""
        query = select(accounts).order_by(accounts.c.tenant_id).limit(limit)
        if after is not None:
            query = query.where(accounts.c.tenant_id > after)
        return [account_from_row(row) for row in await self._fetch(query)]

    async def balance(self, tenant_id: str, as_of: datetime) -> Balance | None:
        """An account's balance after the last entry at or before an instant; None when there is no account."""
        async with self._database.connect() as connection:
            found = (await connection.execute(_BALANCE_AS_OF, {"tenant_id": tenant_id, "as_of": as_of})).one_or_none()
        if found is None:
            return None
        return Balance(
            found.available_after or 0,
            found.reserved_after or 0,
            found.captured_after or 0,
            found.version or 0,
            as_of,
        )

    async def reservation(self, tenant_id: str, reservation_id: UUID) -> Reservation | None:
        """One reservation of an account."""
        query = select(reservations).where(
            reservations.c.tenant_id == tenant_id, reservations.c.reservation_id == reservation_id
        )
        rows = await self._fetch(query)
        return reservation_from_row(rows[0]) if rows else None

    async def reservations(
        self, tenant_id: str, *, state: ReservationState | None, before: int | None, limit: int
    ) -> list[Reservation]:
        """An account's reservations, newest first, below an opening version."""
        query = (
            select(reservations)
            .where(reservations.c.tenant_id == tenant_id)
            .order_by(reservations.c.opened_version.desc())
            .limit(limit)
        )
        if state is not None:
            query = query.where(reservations.c.state == literal(int(state), literal_execute=True))
        if state is ReservationState.OPEN:
            query = query.where(reservations.c.is_live)  # as its index says it
        if before is not None:
            query = query.where(reservations.c.opened_version < before)
        return [reservation_from_row(row) for row in await self._fetch(query)]

    async def entries(
        self, tenant_id: str, *, campaign_id: str, reservation_id: UUID | None, after: int, limit: int
    ) -> list[Entry]:
        """An account's entries in version order, of one campaign or reservation where they are given."""
        query = (
            select(entries)
            .where(entries.c.tenant_id == tenant_id, entries.c.version > after)
            .order_by(entries.c.version)
            .limit(limit)
        )
        if reservation_id is not None:
            query = query.where(entries.c.reservation_id == reservation_id)
        if campaign_id:
            # Entries have no index of campaigns: a campaign has few reservations, which have one.
            of_campaign = select(reservations.c.reservation_id).where(
                reservations.c.tenant_id == tenant_id, reservations.c.campaign_id == campaign_id
            )
            query = query.where(entries.c.reservation_id.in_(of_campaign))
        return [entry_from_row(row) for row in await self._fetch(query)]

    async def tenants_with_expired_lots(self, now: datetime, *, limit: int) -> list[str]:
        """Tenants with credits left in lots that are past their end."""
        query = select(lots.c.tenant_id).where(lots.c.available > 0, lots.c.expires_at <= now).distinct().limit(limit)
        return [row["tenant_id"] for row in await self._fetch(query)]

    async def _fetch(self, query: Select[Any]) -> Sequence[RowMapping]:
        async with self._database.connect() as connection:
            rows: Sequence[RowMapping] = (await connection.execute(query)).mappings().all()
            return rows


# Within an account created_at never decreases with the version, so the last entry at or before an instant is found by
# bisection over the primary key: about 20 look-ups among a million entries, and no index by time to be kept.
_BALANCE_AS_OF: Final = text("""
WITH RECURSIVE bisection (low, high) AS (
    SELECT 0::bigint, version + 1 FROM accounts WHERE tenant_id = :tenant_id
    UNION ALL
    SELECT
        CASE WHEN entries.created_at <= :as_of THEN entries.version ELSE low END,
        CASE WHEN entries.created_at <= :as_of THEN high ELSE entries.version END
    FROM bisection
    JOIN entries ON entries.tenant_id = :tenant_id AND entries.version = (low + high) / 2
    WHERE high - low > 1
)
SELECT entries.version, entries.available_after, entries.reserved_after, entries.captured_after
FROM (SELECT max(low) AS version FROM bisection HAVING count(*) > 0) AS last
LEFT JOIN entries ON entries.tenant_id = :tenant_id AND entries.version = last.version
""")
