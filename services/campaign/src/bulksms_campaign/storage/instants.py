"""The instant of a transaction: read from the database's clock by its first statement, and passed on from there.

Statements that change rows never ask a clock themselves, so that all a transaction writes bears one time, wherever its
rows are. Where the first statement reads something anyway, it returns the instant along with it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection


async def read_instant(connection: AsyncConnection) -> datetime:
    """The instant of the transaction that this statement begins."""
    instant: datetime = (await connection.execute(select(func.clock_timestamp()))).scalar_one()
    return instant


async def read_raw_instant(driver: Any) -> datetime:
    """The same on asyncpg's connection."""
    instant: datetime = await driver.fetchval("SELECT clock_timestamp()")
    return instant
