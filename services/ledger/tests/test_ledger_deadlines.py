"""Callers that give up: what has begun is finished, and their repeat is told so."""

from __future__ import annotations

import asyncio

import asyncpg
import grpc
import pytest

from devstack.eventually import eventually

from .ledger_support import Tenant


async def test_a_callers_deadline_does_not_undo_what_is_being_decided(tenant: Tenant, ledger_url: str) -> None:
    await tenant.open(100)
    reservation_id = (await tenant.reserve(50)).reservation.reservation_id
    request = tenant.capture_request(reservation_id, 7)
    blocker = await asyncpg.connect(ledger_url)
    try:
        # Somebody else has locked the account: the group has begun and waits for the lock when the caller gives up.
        async with blocker.transaction():
            await blocker.execute("SELECT FROM accounts WHERE tenant_id = 'acme' FOR UPDATE")
            call = asyncio.ensure_future(tenant.stub.Capture(request, timeout=1))
            await eventually(lambda: _is_waited_for(blocker), 10)
            with pytest.raises(grpc.aio.AioRpcError) as gave_up:
                await call
            assert gave_up.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    finally:
        await blocker.close()
    again = await tenant.stub.Capture(request)
    assert (again.replayed, again.reservation.captured) == (True, 7)
    assert (await tenant.balance()).captured == 7


async def _is_waited_for(connection: asyncpg.Connection) -> bool:
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    return bool(await connection.fetchval(waiting))
