"""Imports: a file's rows staged in temporary tables of one connection, then merged in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import IntEnum
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.contact_file.reasons import LineReason
from bulksms_campaign.domain.contact_file.rows import ContactRow, RejectedLine
from bulksms_campaign.storage.contact_counts import lock_counts
from bulksms_campaign.storage.plans import hash_joins
from bulksms_campaign.storage.tables import import_lines, imports
from servicekit.bulk import copy_records, execute_long, raw

MERGE_LIMIT = timedelta(minutes=15)
COPY_LIMIT = timedelta(seconds=60)

_STAGE = (
    """
    CREATE TEMPORARY TABLE staged_rows
        (line_number bigint NOT NULL, phone bigint NOT NULL, first_name text NOT NULL, last_name text NOT NULL)
    """,
    """
    CREATE TEMPORARY TABLE staged_rejections
        (line_number bigint NOT NULL, reason text NOT NULL, field text NOT NULL, message text NOT NULL)
    """,
    "CREATE TEMPORARY TABLE staged_joins (group_name text NOT NULL, phone bigint NOT NULL)",
)
_UNSTAGE = "DROP TABLE IF EXISTS staged_rows, staged_rejections, staged_joins"


class LineOutcome(IntEnum):
    """What became of a line that was not imported; numbered as in the contract."""

    REJECTED = 1
    DUPLICATE = 2


class ImportCounts(NamedTuple):
    """lines = created + updated + duplicates + rejected."""

    lines: int
    created: int
    updated: int
    duplicates: int
    rejected: int


class ImportLineRow(NamedTuple):
    """A line that was not imported."""

    line_number: int
    outcome: int
    reason: str
    field: str
    message: str
    first_line_number: int


class StoredImport(NamedTuple):
    """An import that was done."""

    content_hash: bytes
    counts: ImportCounts


async def create_stage(connection: AsyncConnection) -> None:
    """Temporary tables for one file; their transaction ends here, so that a slow upload keeps none open."""
    async with connection.begin():
        await connection.execute(text(_UNSTAGE))
        for statement in _STAGE:
            await connection.execute(text(statement))


async def drop_stage(connection: AsyncConnection) -> None:
    """Leave the connection as it was."""
    async with connection.begin():
        await connection.execute(text(_UNSTAGE))


async def stage(
    connection: AsyncConnection, contacts: Sequence[ContactRow], rejections: Sequence[RejectedLine]
) -> None:
    """Put rows by."""
    async with connection.begin():
        if contacts:
            await copy_records(
                connection,
                "staged_rows",
                columns=("line_number", "phone", "first_name", "last_name"),
                records=contacts,
                limit=COPY_LIMIT,
            )
        if rejections:
            await copy_records(
                connection,
                "staged_rejections",
                columns=("line_number", "reason", "field", "message"),
                records=[(line.line_number, line.reason, line.field, line.message) for line in rejections],
                limit=COPY_LIMIT,
            )


# The first line of a number counts. A name the file leaves empty does not erase one that is stored. Rows in phone
# order, so that two imports of the same people lock them in the same order. New contacts are noted for the counts:
# xmax is 0 in rows that this statement inserted.
_MERGE_CONTACTS = """
    WITH merged AS (
        INSERT INTO contacts AS c (tenant_id, phone, first_name, last_name, created_at, updated_at)
        SELECT $1, phone, first_name, last_name, $2, $2
        FROM (SELECT DISTINCT ON (phone) * FROM staged_rows ORDER BY phone, line_number) s
        ORDER BY phone
        ON CONFLICT (tenant_id, phone) DO UPDATE SET
            first_name = coalesce(nullif(excluded.first_name, ''), c.first_name),
            last_name = coalesce(nullif(excluded.last_name, ''), c.last_name),
            updated_at = excluded.updated_at
        WHERE (excluded.first_name <> '' AND excluded.first_name <> c.first_name)
           OR (excluded.last_name <> '' AND excluded.last_name <> c.last_name)
        RETURNING phone, xmax = 0 AS created
    )
    INSERT INTO staged_joins SELECT '', phone FROM merged WHERE created
"""

_MERGE_GROUP = """
    WITH joined AS (
        INSERT INTO contact_groups (tenant_id, group_name, phone, added_at)
        SELECT $1, $2, phone, $3 FROM (SELECT DISTINCT phone FROM staged_rows ORDER BY phone) s
        ON CONFLICT DO NOTHING
        RETURNING phone
    )
    INSERT INTO staged_joins SELECT $2, phone FROM joined
"""

# After the counts are locked, so that it sees every opt-out committed before and none comes in between.
_MOVE_COUNTS = """
    INSERT INTO contact_counts AS k (tenant_id, group_name, contacts, opted_out)
    SELECT $1, j.group_name, count(*), count(o.phone)
    FROM staged_joins j LEFT JOIN opt_outs o ON o.tenant_id = $1 AND o.phone = j.phone
    GROUP BY j.group_name
    ON CONFLICT (tenant_id, group_name) DO UPDATE
        SET contacts = k.contacts + excluded.contacts, opted_out = k.opted_out + excluded.opted_out,
            version = k.version + 1
"""

_REPORT_DUPLICATES = f"""
    INSERT INTO import_lines
        (tenant_id, import_id, line_number, outcome, reason, field, message, first_line_number)
    SELECT $1, $2, line_number, {int(LineOutcome.DUPLICATE)}, '{LineReason.DUPLICATE}', 'phone',
           'the number stands on line ' || first || ' already: that line counts', first
    FROM (SELECT line_number, min(line_number) OVER (PARTITION BY phone) AS first FROM staged_rows) s
    WHERE line_number > first
"""

_REPORT_REJECTIONS = f"""
    INSERT INTO import_lines
        (tenant_id, import_id, line_number, outcome, reason, field, message, first_line_number)
    SELECT $1, $2, line_number, {int(LineOutcome.REJECTED)}, reason, field, message, 0 FROM staged_rejections
"""

_COUNT = """
    SELECT (SELECT count(*) FROM staged_rows), (SELECT count(DISTINCT phone) FROM staged_rows),
           (SELECT count(*) FROM staged_rejections), (SELECT count(*) FROM staged_joins WHERE group_name = '')
"""

_KEEP = """
    INSERT INTO imports
        (tenant_id, import_id, content_hash, lines, created, updated, duplicates, rejected, created_at)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""


async def merge(
    connection: AsyncConnection,
    tenant_id: str,
    import_id: UUID,
    content_hash: bytes,
    groups: Sequence[str],
    now: datetime,
) -> ImportCounts:
    """Make the staged rows contacts, in the caller's transaction. A repeat breaks the primary key of `imports`."""
    driver = await raw(connection)
    await hash_joins(driver)
    for table in ("staged_rows", "staged_rejections"):
        await driver.execute(f"ANALYZE {table}")
    await execute_long(connection, _MERGE_CONTACTS, tenant_id, now, limit=MERGE_LIMIT)
    for group in groups:
        await execute_long(connection, _MERGE_GROUP, tenant_id, group, now, limit=MERGE_LIMIT)
    rows, phones, rejected, created = await driver.fetchrow(_COUNT, timeout=MERGE_LIMIT.total_seconds())
    counts = ImportCounts(rows + rejected, created, phones - created, rows - phones, rejected)
    await driver.execute(_KEEP, tenant_id, import_id, content_hash, *counts, now)
    await execute_long(connection, _REPORT_REJECTIONS, tenant_id, import_id, limit=MERGE_LIMIT)
    await execute_long(connection, _REPORT_DUPLICATES, tenant_id, import_id, limit=MERGE_LIMIT)
    await lock_counts(connection, tenant_id)
    await execute_long(connection, _MOVE_COUNTS, tenant_id, limit=MERGE_LIMIT)
    return counts


async def read_import(connection: AsyncConnection, tenant_id: str, import_id: UUID) -> StoredImport | None:
    """An import that was done, or None."""
    query = select(imports).where(imports.c.tenant_id == tenant_id, imports.c.import_id == import_id)
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        return None
    return StoredImport(
        row.content_hash, ImportCounts(row.lines, row.created, row.updated, row.duplicates, row.rejected)
    )


async def list_import_lines(
    connection: AsyncConnection, tenant_id: str, import_id: UUID, after: int, limit: int
) -> list[ImportLineRow]:
    """A page of the lines that were not imported, in line order."""
    columns = import_lines.c
    query = (
        select(
            columns.line_number,
            columns.outcome,
            columns.reason,
            columns.field,
            columns.message,
            columns.first_line_number,
        )
        .where(columns.tenant_id == tenant_id, columns.import_id == import_id, columns.line_number > after)
        .order_by(columns.line_number)
        .limit(limit)
    )
    return [ImportLineRow(*row) for row in await connection.execute(query)]
