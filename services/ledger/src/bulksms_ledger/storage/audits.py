"""Audits in the database: whose turn it is, what an audit needs to see, and what it found."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_ledger.domain.audits import Audit, Movements, Totals
from bulksms_ledger.domain.entries import EntryKind
from servicekit.database import Database

# Entries of one reservation that are summed up at most; what has more is covered by the totals and by `rebuild`.
MOVEMENTS_MAX: Final = 2_000
ABANDONED_MAX: Final = 100


async def claim(connection: AsyncConnection, due_before: datetime) -> Audit | None:
    """The account not audited for longest, if it is due; locked until the transaction ends.

    The whole audit sees the instant of this statement; another replica that is at the account already is passed by.
    """
    await connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
    row = (await connection.execute(_CLAIM, {"due_before": due_before})).one_or_none()
    if row is None:
        return None
    return Audit(row.tenant_id, row.newest_version, row.patrol_version, tuple(row.differences), tuple(row.abandoned))


async def save(connection: AsyncConnection, audit: Audit, audited_at: datetime) -> None:
    """Keep what an audit came to, and since when the account is not looked at."""
    parameters = {
        "tenant_id": audit.tenant_id,
        "newest_version": audit.newest_version,
        "patrol_version": audit.patrol_version,
        "differences": list(audit.differences),
        "abandoned": list(audit.abandoned),
        "audited_at": audited_at,
    }
    await connection.execute(_SAVE, parameters)


async def movements(
    connection: AsyncConnection, tenant_id: str, reservation_ids: Sequence[UUID]
) -> dict[UUID, Movements]:
    """What the entries of each of these reservations come to."""
    rows = await connection.execute(_MOVEMENTS, {"tenant_id": tenant_id, "reservation_ids": list(reservation_ids)})
    return {
        row.reservation_id: Movements(
            row.entries, int(row.reserved), int(row.captured), int(row.released), int(row.refunded), row.closes
        )
        for row in rows
    }


async def totals(connection: AsyncConnection, tenant_id: str) -> Totals:
    """What lots have available and reservations reserved, each read through an index of those that have any."""
    row = (await connection.execute(_TOTALS, {"tenant_id": tenant_id})).one()
    return Totals(int(row.in_lots), int(row.reserved))


async def captured(connection: AsyncConnection, tenant_id: str) -> int:
    """What all reservations captured, less refunds; reads every reservation, so it is asked once a round only."""
    return int((await connection.execute(_CAPTURED, {"tenant_id": tenant_id})).scalar_one())


async def abandoned(connection: AsyncConnection, tenant_id: str, untouched_since: datetime) -> tuple[UUID, ...]:
    """Reservations with credits open or authorized and without an entry since an instant, oldest first."""
    parameters = {"tenant_id": tenant_id, "untouched_since": untouched_since, "limit": ABANDONED_MAX}
    return tuple((await connection.execute(_ABANDONED, parameters)).scalars())


async def count_findings(database: Database) -> tuple[int, int]:
    """Accounts with differences, and abandoned reservations, of the whole ledger."""
    async with database.connect() as connection:
        row = (await connection.execute(_FINDINGS)).one()
    return row.differing, int(row.abandoned)


_CLAIM: Final = text("""
SELECT tenant_id, newest_version, patrol_version, differences, abandoned FROM audits
WHERE audited_at <= :due_before
ORDER BY audited_at LIMIT 1 FOR UPDATE SKIP LOCKED
""")

_SAVE: Final = text("""
UPDATE audits SET
    newest_version = :newest_version, patrol_version = :patrol_version, audited_at = :audited_at,
    differences = :differences, abandoned = CAST(:abandoned AS uuid[]),
    found_at = CASE WHEN cardinality(CAST(:differences AS text[])) > 0 THEN coalesce(found_at, :audited_at) END
WHERE tenant_id = :tenant_id
""")

_MOVEMENTS: Final = text(f"""
SELECT asked.reservation_id, moved.*
FROM unnest(CAST(:reservation_ids AS uuid[])) AS asked (reservation_id)
CROSS JOIN LATERAL (
    SELECT count(*) AS entries,
        coalesce(sum(units) FILTER (WHERE kind = {EntryKind.RESERVE:d}), 0) AS reserved,
        coalesce(sum(units) FILTER (WHERE kind = {EntryKind.CAPTURE:d}), 0) AS captured,
        coalesce(sum(units) FILTER (WHERE kind IN ({EntryKind.RELEASE:d}, {EntryKind.CLOSE:d})), 0) AS released,
        coalesce(sum(units) FILTER (WHERE kind = {EntryKind.REFUND:d}), 0) AS refunded,
        count(*) FILTER (WHERE kind = {EntryKind.CLOSE:d}) AS closes
    FROM (
        SELECT kind, units FROM entries
        WHERE tenant_id = :tenant_id AND entries.reservation_id = asked.reservation_id
        ORDER BY version LIMIT {MOVEMENTS_MAX + 1}
    ) AS its_entries
) AS moved
""")

_TOTALS: Final = text("""
SELECT
    (SELECT coalesce(sum(available), 0) FROM lots WHERE tenant_id = :tenant_id AND available > 0) AS in_lots,
    (
        SELECT coalesce(sum(open_units + authorized), 0) FROM reservations
        WHERE tenant_id = :tenant_id AND is_live
    ) AS reserved
""")

_CAPTURED: Final = text("""
SELECT coalesce(sum(captured - refunded), 0) FROM reservations WHERE tenant_id = :tenant_id
""")

_ABANDONED: Final = text("""
SELECT reservation_id FROM reservations
WHERE tenant_id = :tenant_id AND is_live AND created_at < :untouched_since
    AND (
        SELECT entries.created_at FROM entries
        WHERE entries.tenant_id = reservations.tenant_id AND entries.reservation_id = reservations.reservation_id
        ORDER BY entries.version DESC LIMIT 1
    ) < :untouched_since
ORDER BY opened_version LIMIT :limit
""")

_FINDINGS: Final = text("""
SELECT
    (SELECT count(*) FROM audits WHERE found_at IS NOT NULL) AS differing,
    (SELECT coalesce(sum(cardinality(abandoned)), 0) FROM audits WHERE abandoned <> '{}') AS abandoned
""")
