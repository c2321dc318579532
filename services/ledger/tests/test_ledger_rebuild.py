"""`rebuild --check`: every account recomputed from its entries alone, and what differs named."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from dataclasses import dataclass, field

import pytest

from bulksms_ledger import rebuild
from servicekit.clock import ManualClock
from servicekit.database import Database

from .ledger_support import Tenant
from .test_ledger_verification import behind_the_ledgers_back, fill


@dataclass
class Check:
    """The check, and what it wrote."""

    url: str
    written: list[str] = field(default_factory=list)

    async def __call__(self, tenant_id: str = "") -> int:
        self.written.clear()
        return await rebuild.check(Database(self.url, application_name="test"), tenant_id, self.written.append)


@pytest.fixture
def check(ledger_url: str) -> Check:
    return Check(ledger_url)


async def test_all_accounts_are_what_their_entries_say(tenant: Tenant, clock: ManualClock, check: Check) -> None:
    await fill(tenant, clock)
    await Tenant(tenant.stub, tenant.ids, "other").open(7)
    await Tenant(tenant.stub, tenant.ids, "without-entries").open()
    assert await check() == 0
    entries = len(await tenant.entries()) + 1
    said = f"3 accounts, {entries} entries: all balances, reservations and lots are what the entries say\n"
    assert check.written == [said]


async def test_what_differs_is_named_account_by_account(
    tenant: Tenant, clock: ManualClock, ledger_url: str, check: Check
) -> None:
    await fill(tenant, clock)
    other = await Tenant(tenant.stub, tenant.ids, "other").open(7)
    for change in (
        "UPDATE reservations SET captured = captured - 1, released = released + 1 WHERE state = 2",
        "UPDATE accounts SET available = available + 1 WHERE tenant_id = 'other'",
    ):
        await behind_the_ledgers_back(ledger_url, change)
    assert await check() == 1
    lines = [line.rstrip() for line in check.written]
    assert [line.split(": ")[0] for line in lines[:-1]] == ["acme", "acme", "other"]
    assert "is stored otherwise than the entries say: captured, released" in lines[0]
    assert lines[-1].endswith("2 differ")
    await behind_the_ledgers_back(ledger_url, "UPDATE accounts SET available = available - 1 WHERE tenant_id = 'other'")
    assert await check(other.tenant_id) == 0


async def test_a_history_of_many_pages_keeps_only_what_is_open_in_memory(tenant: Tenant, check: Check) -> None:
    await tenant.open(2000)

    async def send_one() -> None:
        reservation_id = (await tenant.reserve(1)).reservation.reservation_id
        await tenant.capture(reservation_id, 1)
        await tenant.close(reservation_id, 1)

    await asyncio.gather(*(send_one() for _ in range(400)))
    assert await check() == 0


@pytest.mark.slow
async def test_the_command_exits_with_0_1_or_2(tenant: Tenant, ledger_url: str) -> None:
    async def run(*arguments: str, url: str = ledger_url) -> tuple[int, str]:
        command = [sys.executable, "-m", "bulksms_ledger", "rebuild", *arguments]
        environment = {**os.environ, "DATABASE_URL": url}
        ran = await asyncio.to_thread(
            subprocess.run, command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        return ran.returncode, ran.stdout + ran.stderr

    await tenant.open(5)
    same, changed_usage, nobody, nowhere = await asyncio.gather(
        run("--check"), run(), run("--check", "--tenant", "nobody"), run("--check", url="")
    )
    assert same[0] == 0, same[1]
    assert changed_usage[0] == 2
    assert (nobody[0], "nobody has no account" in nobody[1]) == (2, True)
    assert (nowhere[0], "DATABASE_URL" in nowhere[1]) == (2, True)
    await behind_the_ledgers_back(ledger_url, "UPDATE lots SET available = 4")
    differs = await run("--check")
    assert (differs[0], "acme: lot 1 is stored otherwise" in differs[1]) == (1, True)
