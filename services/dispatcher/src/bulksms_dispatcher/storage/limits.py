"""Rate limits that override the settings, the same for all replicas."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.rate_limits import Limit, LimitScope

__all__ = ["read_overrides", "save_override"]

_READ = text("SELECT scope, key, max_requests, max_messages, window_ms FROM rate_limits ORDER BY scope, key")
_SAVE = text("""
    INSERT INTO rate_limits (scope, key, max_requests, max_messages, window_ms)
    VALUES (:scope, :key, :max_requests, :max_messages, :window_ms)
    ON CONFLICT (scope, key) DO UPDATE
    SET max_requests = excluded.max_requests, max_messages = excluded.max_messages, window_ms = excluded.window_ms,
        updated_at = clock_timestamp()
""")


async def read_overrides(connection: AsyncConnection) -> dict[tuple[LimitScope, str], Limit]:
    """All of them, by scope and account or tenant."""
    rows = await connection.execute(_READ)
    return {
        (LimitScope(row.scope), row.key): Limit(
            row.max_requests, row.max_messages, timedelta(milliseconds=row.window_ms)
        )
        for row in rows
    }


async def save_override(connection: AsyncConnection, scope: LimitScope, key: str, limit: Limit) -> None:
    """Set or replace one."""
    await connection.execute(
        _SAVE,
        {
            "scope": scope,
            "key": key,
            "max_requests": limit.max_requests,
            "max_messages": limit.max_messages,
            "window_ms": limit.window // timedelta(milliseconds=1),
        },
    )
