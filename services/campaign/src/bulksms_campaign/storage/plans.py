"""How large joins are planned: not by the statistics of tables that have just grown.

A table that an import or a snapshot has filled has statistics from before: PostgreSQL then expects one row where there
is a million, and joins by comparing each with each. 10,000 contacts took 5 s so, instead of 20 ms.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

__all__ = ["hash_joins", "hashed_joins"]


async def hash_joins(driver: Any) -> None:
    """Hash or merge whatever can be, until asyncpg's connection ends its transaction: linear, whatever is expected."""
    await driver.execute("SET LOCAL enable_nestloop = off; SET LOCAL work_mem = '64MB'")


@asynccontextmanager
async def hashed_joins(driver: Any) -> AsyncIterator[None]:
    """The same for some statements of a transaction; an error ends the transaction, and the settings with it."""
    await hash_joins(driver)
    yield
    await driver.execute("SET LOCAL enable_nestloop = DEFAULT; SET LOCAL work_mem = DEFAULT")
