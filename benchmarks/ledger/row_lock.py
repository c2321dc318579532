"""The plain way: one transaction per request, each locking the account's row; what the ledger is compared with.

It does what a capture must: lock, look for the request id, move the credits, write the entry. No hash chain, no lots.
"""

from __future__ import annotations

import asyncio
import os
import time

import asyncpg

from benchmarks.ledger.accounts import HotAccount
from benchmarks.report import Figure, Meter
from bulksms_ledger.domain.operations import Capture, encode_content

_SCHEMA = """
CREATE TABLE row_lock_accounts (tenant_id text PRIMARY KEY, reserved bigint, captured bigint, version bigint);
CREATE TABLE row_lock_entries (
    tenant_id text, version bigint, request_id uuid UNIQUE, reservation_id uuid, units bigint, reserved_after bigint,
    captured_after bigint, content text, created_at timestamptz DEFAULT now(), PRIMARY KEY (tenant_id, version));
"""
_LOCK = "SELECT reserved, captured, version FROM row_lock_accounts WHERE tenant_id = $1 FOR UPDATE"
_KNOWN = "SELECT FROM row_lock_entries WHERE request_id = $1"
_UPDATE = "UPDATE row_lock_accounts SET reserved = $2, captured = $3, version = $4 WHERE tenant_id = $1"
_INSERT = """
INSERT INTO row_lock_entries
    (tenant_id, version, request_id, reservation_id, units, reserved_after, captured_after, content)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""


async def row_lock_per_request(url: str, postgres: int, *, callers: int, items: int) -> Figure:
    """So many callers, a connection each, until all items are done."""
    account = HotAccount("rowlock", seed=1)
    pool = await asyncpg.create_pool(url, min_size=callers, max_size=callers)
    async with pool:
        await pool.execute(_SCHEMA)
        await pool.execute("INSERT INTO row_lock_accounts VALUES ($1, $2, 0, 0)", account.tenant_id, 10**9)
        captures = account.captures(items)
        latencies: list[float] = []
        meter = Meter(client=os.getpid(), postgres=postgres)

        async def caller() -> None:
            for capture in captures:
                started = time.perf_counter()
                await _capture(pool, capture)
                latencies.append(time.perf_counter() - started)

        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(caller())
        return meter.figure(f"row lock per request, {callers} callers", items, latencies)


async def _capture(pool: asyncpg.Pool, capture: Capture) -> None:
    async with pool.acquire() as connection, connection.transaction():
        reserved, captured, version = await connection.fetchrow(_LOCK, capture.tenant_id)
        if await connection.fetchrow(_KNOWN, capture.request_id) is not None:
            return
        reserved, captured, version = reserved - capture.units, captured + capture.units, version + 1
        await connection.execute(_UPDATE, capture.tenant_id, reserved, captured, version)
        await connection.execute(
            _INSERT,
            capture.tenant_id,
            version,
            capture.request_id,
            capture.reservation_id,
            capture.units,
            reserved,
            captured,
            encode_content(capture),
        )
