"""Bulk statements: COPY, `unnest` and long ones, on asyncpg's connection and inside SQLAlchemy's transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from servicekit import statement_spans

__all__ = ["copy_records", "execute_long", "fetch_long", "raw"]


async def raw(connection: AsyncConnection) -> Any:
    """The asyncpg connection below, its transaction begun, for `unnest` statements and COPY.

    SQLAlchemy begins with its own first statement; a raw one before that would commit by itself. Errors are asyncpg's.
    """
    driver = (await connection.get_raw_connection()).driver_connection
    if driver is None:
        raise RuntimeError("this connection has been closed")
    if not driver.is_in_transaction():
        await connection.execute(text("SELECT 1"))
    return driver


async def copy_records(
    connection: AsyncConnection,
    table: str,
    *,
    columns: Sequence[str],
    records: Iterable[Sequence[Any]],
    schema: str | None = None,
    limit: timedelta | None = None,
) -> int:
    """COPY rows into a table inside the connection's transaction; returns how many. `limit` extends the timeouts."""
    driver = await raw(connection)
    await _extend_statement_timeout(driver, limit)
    with statement_spans.span("COPY", f"COPY {table} ({', '.join(columns)}) FROM STDIN"):
        tag = await driver.copy_records_to_table(
            table,
            schema_name=schema,
            columns=list(columns),
            records=records,
            timeout=limit.total_seconds() if limit else None,
        )
    return int(tag.rpartition(" ")[2])


async def execute_long(connection: AsyncConnection, sql: str, *arguments: Any, limit: timedelta) -> int:
    """A statement ($1, $2, … as asyncpg has them) that may take up to `limit`; returns the number of rows touched."""
    driver = await raw(connection)
    await _extend_statement_timeout(driver, limit)
    with statement_spans.span(sql.split(maxsplit=1)[0].upper(), sql):
        # Prepared and fetched: asyncpg's execute() with arguments takes no other way either.
        tag = await driver.execute(sql, *arguments, timeout=limit.total_seconds())
    rows = tag.rpartition(" ")[2]
    return int(rows) if rows.isdigit() else 0


async def fetch_long(connection: AsyncConnection, sql: str, *arguments: Any, limit: timedelta) -> Sequence[Any]:
    """The rows of a statement that may take up to `limit`."""
    driver = await raw(connection)
    await _extend_statement_timeout(driver, limit)
    with statement_spans.span(sql.split(maxsplit=1)[0].upper(), sql):
        rows: Sequence[Any] = await driver.fetch(sql, *arguments, timeout=limit.total_seconds())
    return rows


async def _extend_statement_timeout(driver: Any, limit: timedelta | None) -> None:
    if limit is not None:
        await driver.execute(f"SET LOCAL statement_timeout = {limit // timedelta(milliseconds=1)}")
