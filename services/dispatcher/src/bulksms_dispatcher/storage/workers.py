"""Workers: a heartbeat per process, so that the queue's figures say who is alive."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["beat", "remove"]

_BEAT = text("""
    INSERT INTO workers (worker) VALUES (:worker) ON CONFLICT (worker) DO UPDATE SET seen_at = clock_timestamp()
""")
# Rows of processes that died without a word are of no use after a day.
_FORGET = text("DELETE FROM workers WHERE seen_at < now() - interval '1 day'")
_REMOVE = text("DELETE FROM workers WHERE worker = :worker")


async def beat(connection: AsyncConnection, worker: str) -> None:
    """Say that this worker is alive."""
    await connection.execute(_BEAT, {"worker": worker})
    await connection.execute(_FORGET)


async def remove(connection: AsyncConnection, worker: str) -> None:
    """Say that it has stopped."""
    await connection.execute(_REMOVE, {"worker": worker})
