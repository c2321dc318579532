"""Lots that expire: used first, written off when their time has come, also without anybody asking."""

from __future__ import annotations

from datetime import timedelta
from random import Random

from bulksms.ledger.v1 import ledger_pb2 as pb
from bulksms_ledger.engine.account_writer import AccountWriter
from bulksms_ledger.engine.group_commit import GroupCommit
from bulksms_ledger.storage.reading import Reader
from bulksms_ledger.workers.expiry import ExpiryWorker
from servicekit.clock import ManualClock
from servicekit.database import Database

from .ledger_support import Tenant, refused


async def grant_for(tenant: Tenant, clock: ManualClock, units: int, duration: timedelta) -> pb.GrantCreditsResponse:
    request = pb.GrantCreditsRequest(request_id=tenant.ids(), tenant_id=tenant.tenant_id, units=units)
    request.expires_at.FromDatetime(clock.now() + duration)
    return await tenant.stub.GrantCredits(request)


async def test_what_expires_first_is_reserved_first(tenant: Tenant, clock: ManualClock) -> None:
    await tenant.open(10)
    await grant_for(tenant, clock, 10, timedelta(hours=2))
    await grant_for(tenant, clock, 10, timedelta(hours=1))
    await tenant.reserve(15)
    clock.advance(timedelta(hours=1))
    await tenant.grant(1)
    assert (await tenant.balance()).available == 16  # nothing to write off: the lot of one hour is all reserved
    clock.advance(timedelta(hours=1))
    granted = await tenant.grant(1)
    assert granted.balance.available == 12
    expired = [entry for entry in await tenant.entries() if entry.kind == pb.ENTRY_KIND_EXPIRE]
    assert [(entry.units, entry.reason, entry.request_id) for entry in expired] == [
        (5, "lot 2 expired", granted.entry.request_id)
    ]
    assert (await tenant.verify()).consistent


async def test_reserved_credits_do_not_expire_until_they_are_given_back(tenant: Tenant, clock: ManualClock) -> None:
    await tenant.open()
    await grant_for(tenant, clock, 10, timedelta(hours=1))
    reservation_id = (await tenant.reserve(10)).reservation.reservation_id
    clock.advance(timedelta(days=30))
    assert (await tenant.capture(reservation_id, 4)).reservation.captured == 4
    closed = await tenant.close(reservation_id, 4)
    assert (closed.reservation.released, closed.balance.available, closed.balance.granted) == (6, 0, 4)
    assert (await refused(tenant.reserve(1))).reason == "INSUFFICIENT_CREDITS"
    assert (await tenant.verify()).consistent


async def test_a_grant_that_is_wrong_writes_nothing_off(tenant: Tenant, clock: ManualClock) -> None:
    await tenant.open()
    await grant_for(tenant, clock, 10, timedelta(hours=1))
    clock.advance(timedelta(hours=2))
    error = await refused(grant_for(tenant, clock, 10, timedelta(0)))
    assert error.reason == "INVALID_ARGUMENT"
    assert len(await tenant.entries()) == 1  # an entry of a request that is not kept would be on nobody's record
    assert (await tenant.verify()).consistent


async def test_a_lot_cannot_begin_expired_but_its_grant_is_still_replayed_afterwards(
    tenant: Tenant, clock: ManualClock
) -> None:
    await tenant.open()
    error = await refused(grant_for(tenant, clock, 10, timedelta(0)))
    assert [violation.field for violation in error.field_violations] == ["expires_at"]
    request = pb.GrantCreditsRequest(request_id=tenant.ids(), tenant_id="acme", units=5)
    request.expires_at.FromDatetime(clock.now() + timedelta(hours=1))
    first = await tenant.stub.GrantCredits(request)
    clock.advance(timedelta(hours=2))
    again = await tenant.stub.GrantCredits(request)
    assert (again.replayed, again.entry, again.balance) == (True, first.entry, first.balance)


async def test_the_worker_writes_off_what_nobody_asks_about(
    tenant: Tenant, clock: ManualClock, ledger_url: str
) -> None:
    names = ["acme", "b", "c"]
    for name in names:
        await grant_for(await Tenant(tenant.stub, tenant.ids, name).open(7), clock, 5, timedelta(hours=1))
    database = Database(ledger_url, application_name="test")
    group_commit = GroupCommit(AccountWriter(database, clock).decide)
    worker = ExpiryWorker(Reader(database), group_commit, clock, Random(1))
    try:
        assert await worker.expire_once() is False
        assert (await tenant.balance()).version == 2
        clock.advance(timedelta(hours=1))
        for _ in range(2):
            assert await worker.expire_once() is False
            for name in names:
                balance = await Tenant(tenant.stub, tenant.ids, name).balance()
                assert (balance.available, balance.version) == (7, 3)
    finally:
        await group_commit.stop()
        await database.stop()
