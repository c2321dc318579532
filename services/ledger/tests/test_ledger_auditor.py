"""The auditor: finds what differs, wherever it is, says so once, and sees when it is mended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import grpc
import pytest
from structlog.testing import capture_logs

from bulksms.ledger.v1 import ledger_pb2 as pb
from bulksms.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from bulksms_ledger.app import SERVICE
from bulksms_ledger.storage.tables import METADATA
from bulksms_ledger.use_cases.audit_round import PIECE
from bulksms_ledger.workers.auditor import Auditor
from devstack.eventually import eventually
from devstack.health import is_serving
from servicekit.clock import ManualClock
from servicekit.database import Database

from .attempts_support import sender_of
from .ledger_racing import ledger_process
from .ledger_support import Tenant
from .test_ledger_verification import ENTRY_COLUMNS, behind_the_ledgers_back, fill

REST = timedelta(seconds=5)


class Office:
    """An auditor and what it reported."""

    def __init__(self, database: Database, clock: ManualClock) -> None:
        self.reports: list[bool] = []
        self.clock = clock
        self.auditor = Auditor(database, clock, self.report, rest=REST)

    async def report(self, consistent: bool) -> None:
        self.reports.append(consistent)

    async def round(self, times: int = 1) -> list[dict[str, object]]:
        """So many rounds, each when the account is due again; what was logged."""
        with capture_logs() as logged:
            for _ in range(times):
                self.clock.advance(REST)
                await self.auditor.audit_once()
        return [dict(line) for line in logged]


@pytest.fixture
async def database(ledger_url: str) -> AsyncIterator[Database]:
    made = Database(ledger_url, application_name="test")
    yield made
    await made.stop()


@pytest.fixture
def office(database: Database, clock: ManualClock) -> Office:
    return Office(database, clock)


async def test_an_unchanged_ledger_is_consistent_round_after_round(
    tenant: Tenant, office: Office, clock: ManualClock
) -> None:
    await fill(tenant, clock)
    assert await office.round(5) == []
    assert office.reports == [True]


async def test_whatever_is_changed_in_an_entry_is_found_new_or_old(
    tenant: Tenant, office: Office, clock: ManualClock, ledger_url: str
) -> None:
    await fill(tenant, clock)
    await behind_the_ledgers_back(ledger_url, "CREATE TABLE kept AS SELECT * FROM entries")
    for number, (column, change) in enumerate(ENTRY_COLUMNS.items()):
        version = 3 + number
        await behind_the_ledgers_back(ledger_url, f"UPDATE entries SET {column} = {change} WHERE version = $1", version)
        found = await office.round(2)
        assert [line["event"] for line in found] == ["an account is inconsistent"], column
        assert f"entry {version}" in str(found[0]["differences"]), column
        await behind_the_ledgers_back(ledger_url, "DELETE FROM entries")
        await behind_the_ledgers_back(ledger_url, "INSERT INTO entries SELECT * FROM kept")
        assert [line["event"] for line in await office.round(2)] == ["the account is consistent again"], column
    assert office.reports == [False, True] * len(ENTRY_COLUMNS)


CHANGES = [
    ("DELETE FROM entries WHERE version = 5", "entry 5 is missing"),
    ("DELETE FROM entries WHERE version = (SELECT max(version) FROM entries)", "the account stands at entry"),
    ("UPDATE operations SET entry_version = entry_version + 1", "is not on record"),
    ("DELETE FROM operations WHERE content LIKE '%\"Refund\"%'", "is not on record"),
    ("UPDATE accounts SET available = available + 1", "the account has available, reserved, captured"),
    ("UPDATE accounts SET entry_hash = decode(repeat('ab', 32), 'hex')", "or with another hash"),
    ("UPDATE reservations SET units = units + 1, open_units = open_units + 1 WHERE state = 1", "stored otherwise"),
    ("UPDATE reservations SET refunded = 0", "stored otherwise"),
    ("UPDATE reservations SET captured = captured - 1, released = released + 1", "stored otherwise"),
    ("UPDATE reservations SET state = 1, closed_at = NULL WHERE state = 2", "its state is not the one"),
    ("DELETE FROM authorizations; DELETE FROM reservations WHERE state = 2", "is in entries but not stored"),
    ("UPDATE lots SET available = 0", "the lots have 0 available"),
    ("UPDATE reservations SET lot_allocations = '[]'", "its lot allocations do not add up"),
    ("UPDATE authorizations SET authorized = 1, voided = 1 WHERE authorized = 2", "its attempts have 1"),
]  # fmt: skip
TABLES = ("accounts", "lots", "reservations", "authorizations", "entries", "operations")


async def test_whatever_differs_from_the_entries_is_found_and_seen_to_be_mended(
    tenant: Tenant, office: Office, clock: ManualClock, ledger_url: str
) -> None:
    await fill(tenant, clock)
    await office.round(2)
    for table in TABLES:
        await behind_the_ledgers_back(ledger_url, f"CREATE TABLE kept_{table} AS SELECT * FROM {table}")
    for statement, said in CHANGES:
        await behind_the_ledgers_back(ledger_url, statement)
        found = await office.round(3)
        assert [line["event"] for line in found] == ["an account is inconsistent"], statement
        assert said in str(found[0]["differences"]), statement
        await restore(ledger_url)
        assert [line["event"] for line in await office.round(3)] == ["the account is consistent again"], statement
    assert office.reports == [True] + [False, True] * len(CHANGES)


async def test_a_long_account_is_audited_piece_by_piece_and_then_again_from_the_start(
    tenant: Tenant, office: Office, ledger_url: str, database: Database
) -> None:
    await tenant.open(1000)
    reservation_id = (await tenant.reserve(1000)).reservation.reservation_id
    await asyncio.gather(*(tenant.capture(reservation_id, 1) for _ in range(PIECE * 2)))
    assert await office.round(3) == []
    async with database.connect() as connection:
        row = (await connection.exec_driver_sql("SELECT newest_version, patrol_version FROM audits")).one()
    assert tuple(row) == (PIECE * 2 + 2, 0)
    await behind_the_ledgers_back(ledger_url, f"UPDATE entries SET reason = 'x' WHERE version = {PIECE + 7}")
    assert await office.round(1) == []  # the patrol is at the first piece
    [line] = await office.round(1)
    assert f"entry {PIECE + 7}: its hash" in str(line["differences"])


async def test_replicas_share_the_turns_and_all_report_what_one_found(
    tenant: Tenant, office: Office, clock: ManualClock, ledger_url: str, database: Database
) -> None:
    await tenant.open(5)
    other = Office(database, clock)
    clock.advance(REST)
    assert await office.auditor.audit_once()
    assert not await other.auditor.audit_once()
    await behind_the_ledgers_back(ledger_url, "UPDATE accounts SET available = 6")
    clock.advance(REST)
    assert sorted(await asyncio.gather(office.auditor.audit_once(), other.auditor.audit_once())) == [False, True]
    await office.auditor.audit_once()
    await other.auditor.audit_once()
    assert (office.reports, other.reports) == ([True, False], [True, False])


async def test_abandoned_reservations_are_reported_once_and_left_alone(
    tenant: Tenant, office: Office, clock: ManualClock
) -> None:
    await tenant.open(30)
    abandoned, closed, touched = [(await tenant.reserve(10)).reservation.reservation_id for _ in range(3)]
    await tenant.close(closed, 0)
    clock.advance(timedelta(days=6))
    await tenant.capture(touched, 1)
    assert await office.round(2) == []
    clock.advance(timedelta(days=1))
    [line] = await office.round(2)
    assert line["log_level"] == "warning"
    assert line["reservation_ids"] == [abandoned]
    assert (await tenant.balance()).reserved == 19
    assert office.reports == [True]
    await tenant.close(abandoned, 0)
    assert await office.round(2) == []


async def test_a_closed_reservation_whose_attempts_nobody_resolves_is_reported(
    tenant: Tenant, office: Office, clock: ManualClock
) -> None:
    sender = await sender_of(await tenant.open(30), 10)
    attempt = tenant.ids()
    await sender.authorize(attempt, [(0, 1)])
    await tenant.close(sender.reservation_id, 0)
    clock.advance(timedelta(days=7))
    [line] = await office.round(2)
    assert line["reservation_ids"] == [sender.reservation_id]
    assert await sender.void(attempt) == ""
    assert await office.round(2) == []


async def test_an_inconsistent_ledger_says_so_in_its_health_and_log_and_goes_on_answering(
    tenant: Tenant, ledger_url: str, tmp_path: Path
) -> None:
    await tenant.open(5)
    often = {"AUDIT_INTERVAL_SECONDS": "0.05", "AUDIT_REST_SECONDS": "0.05", "LOG_LEVEL": "ERROR"}
    with ledger_process("audited", ledger_url, tmp_path, often) as (process, address):
        port = int(address.rpartition(":")[2])
        await eventually(lambda: asyncio.to_thread(is_serving, port, SERVICE), 20)
        await behind_the_ledgers_back(ledger_url, "UPDATE entries SET units = 6 WHERE version = 1")
        await eventually(lambda: health_is(port, serving=False), 20)
        async with grpc.aio.insecure_channel(address) as channel:
            answer = await LedgerServiceStub(channel).GetBalance(pb.GetBalanceRequest(tenant_id="acme"), timeout=10)
        assert answer.balance.available == 5
        await behind_the_ledgers_back(ledger_url, "UPDATE entries SET units = 5 WHERE version = 1")
        await eventually(lambda: health_is(port, serving=True), 20)
    log = process.log_path.read_text()
    assert log.count("an account is inconsistent") == 1


async def health_is(port: int, *, serving: bool) -> bool:
    """Whether both the process and its one service say so."""
    said = [await asyncio.to_thread(is_serving, port, name) for name in ("", SERVICE)]
    return said == [serving, serving]


async def restore(url: str) -> None:
    """Put every table back as it was kept."""
    statements = [
        "UPDATE accounts SET available = kept.available, entry_hash = kept.entry_hash FROM kept_accounts AS kept"
    ]
    statements += [f"DELETE FROM {table}" for table in reversed(TABLES[1:])]
    for table in TABLES[1:]:
        names = ", ".join(column.name for column in METADATA.tables[table].columns if column.name != "is_live")
        statements.append(f"INSERT INTO {table} ({names}) SELECT {names} FROM kept_{table}")
    await behind_the_ledgers_back(url, ";".join(statements))
