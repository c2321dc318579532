"""Batch sizes that follow the provider, one a traffic account, the same for all replicas."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["grow", "read", "shrink"]

_READ = text("SELECT size FROM batch_sizes WHERE traffic_account_id = :account")
# Only who has sent a batch of the full size knows that it may be larger: of many at once, the first one counts.
_GROW = text("""
    INSERT INTO batch_sizes AS b (traffic_account_id, size)
    VALUES (:account, least(CAST(:max_size AS integer), CAST(:start AS integer) + CAST(:step AS integer)))
    ON CONFLICT (traffic_account_id) DO UPDATE
    SET size = least(CAST(:max_size AS integer), b.size + CAST(:step AS integer)), updated_at = clock_timestamp()
    WHERE b.size <= CAST(:recipients AS integer)
    RETURNING size
""")
# Half of what was too much: batches cut before the last shrinking say nothing new, however many they are.
_SHRINK = text("""
    INSERT INTO batch_sizes AS b (traffic_account_id, size)
    VALUES (:account, least(CAST(:start AS integer), CAST(:target AS integer)))
    ON CONFLICT (traffic_account_id) DO UPDATE
    SET size = CAST(:target AS integer), updated_at = clock_timestamp()
    WHERE b.size > CAST(:target AS integer)
    RETURNING size
""")


async def read(connection: AsyncConnection, account: str) -> int | None:
    """The size in force; None before anything was learnt."""
    return (await connection.execute(_READ, {"account": account})).scalar_one_or_none()


async def grow(
    connection: AsyncConnection, account: str, recipients: int, *, start: int, step: int, max_size: int
) -> int | None:
    """A batch of so many went well; the new size, None when it stays."""
    parameters = {"account": account, "recipients": recipients, "start": start, "step": step, "max_size": max_size}
    return (await connection.execute(_GROW, parameters)).scalar_one_or_none()


async def shrink(connection: AsyncConnection, account: str, target: int, *, start: int) -> int | None:
    """At most `target` from now on; the new size, None when it was not above."""
    parameters = {"account": account, "target": target, "start": start}
    return (await connection.execute(_SHRINK, parameters)).scalar_one_or_none()
