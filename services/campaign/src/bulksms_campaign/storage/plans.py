"""How large joins are planned: not by the statistics of tables that have just grown.

A table that an import or a snapshot has filled has statistics from before: PostgreSQL then expects one row where there
is a million, and joins by comparing each with each. 10,000 contacts took 5 s so, instead of 20 ms.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

__all__ = ["hash_joins", "hashed_joins", "plan_for_ranges"]


async def hash_joins(driver: Any) -> None:
    """Hash or merge whatever can be, until asyncpg's connection ends its transaction: linear, whatever is expected."""
    await driver.execute("SET LOCAL enable_nestloop = off; SET LOCAL work_mem = '64MB'")


async def plan_for_ranges(driver: Any) -> None:
    """Ranges of a primary key, hashed, until the transaction ends.

    A batch's join planned by the statistics of a table that had just grown by a snapshot took 12 s instead of 0.05 s
    (nested loops, 5,000 × 5,000). So it is not left to them.
    """
    await driver.execute(
        "SET LOCAL enable_nestloop = off; SET LOCAL enable_seqscan = off; SET LOCAL plan_cache_mode = force_custom_plan"
    )


@asynccontextmanager
async def hashed_joins(driver: Any) -> AsyncIterator[None]:
    """The same for some statements of a transaction; an error ends the transaction, and the settings with it."""
    await hash_joins(driver)
    yield
    await driver.execute("SET LOCAL enable_nestloop = DEFAULT; SET LOCAL work_mem = DEFAULT")
