"""Rate limits that override the settings, the same for all replicas."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.rate_limits import Limit, LimitScope

__all__ = ["read_overrides", "save_override"]

_READ = text("SELECT scope, key, max_requests, max_messages, window_ms, version FROM rate_limits ORDER BY scope, key")
# A limit that nobody has set has version 0. Rows are never deleted: what exists now, exists when it is changed.
_SAVE = text("""
    INSERT INTO rate_limits (scope, key, max_requests, max_messages, window_ms)
    SELECT CAST(:scope AS smallint), CAST(:key AS text), CAST(:max_requests AS bigint), CAST(:max_messages AS bigint),
           CAST(:window_ms AS bigint)
    WHERE CAST(:etag AS text) IN ('', '0')
       OR EXISTS (SELECT 1 FROM rate_limits WHERE scope = CAST(:scope AS smallint) AND key = CAST(:key AS text))
    ON CONFLICT (scope, key) DO UPDATE
    SET max_requests = excluded.max_requests, max_messages = excluded.max_messages, window_ms = excluded.window_ms,
        version = rate_limits.version + 1, updated_at = clock_timestamp()
    WHERE CAST(:etag AS text) IN ('', CAST(rate_limits.version AS text))
""")


async def read_overrides(connection: AsyncConnection) -> dict[tuple[LimitScope, str], Limit]:
    """All of them, by scope and account or tenant."""
    rows = await connection.execute(_READ)
    return {
        (LimitScope(row.scope), row.key): Limit(
            row.max_requests, row.max_messages, timedelta(milliseconds=row.window_ms), row.version
        )
        for row in rows
    }


async def save_override(connection: AsyncConnection, scope: LimitScope, key: str, limit: Limit, etag: str) -> bool:
    """Set or replace one; False when `etag` is given and the limit has another by now."""
    result = await connection.execute(
        _SAVE,
        {
            "scope": scope,
            "key": key,
            "max_requests": limit.max_requests,
            "max_messages": limit.max_messages,
            "window_ms": limit.window // timedelta(milliseconds=1),
            "etag": etag,
        },
    )
    return result.rowcount == 1
