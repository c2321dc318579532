from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from bulksms_dlr_gateway import quarantine
from bulksms_dlr_gateway.domain.disposition import Disposition
from bulksms_dlr_gateway.domain.entries import Entry
from bulksms_dlr_gateway.domain.payload import Rejected
from bulksms_dlr_gateway.domain.reports import Report, Status
from bulksms_dlr_gateway.storage import statements
from bulksms_dlr_gateway.storage.spool import Spool, SpoolFullError, SpoolLimits
from bulksms_dlr_gateway.storage.tables import open_spool_file
from servicekit.clock import ManualClock
from servicekit.settings import SettingsError

SMALL = SpoolLimits(min_free_bytes=0)


def entry(message_id: str) -> Entry:
    return Entry(Report(message_id, Status.DELIVERED, "Delivered"), received_at=1)


@asynccontextmanager
async def opened(path: Path, clock: ManualClock | None = None, limits: SpoolLimits = SMALL) -> AsyncIterator[Spool]:
    spool = Spool(path, clock or ManualClock(), limits)
    await spool.start()
    try:
        yield spool
    finally:
        await spool.stop()


async def ids_in(spool: Spool) -> list[str]:
    return [row.entry.report.provider_message_id for row in await spool.take_fresh(0, 10_000)]


async def test_what_was_stored_is_there_after_a_restart_in_the_order_of_arrival(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "spool.sqlite3"
    async with opened(path) as spool:
        await spool.append([entry("A"), entry("B")])
        await spool.append([entry("C")])
    async with opened(path) as spool:
        assert await ids_in(spool) == ["A", "B", "C"]
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_folder_is_taken_for_the_place_of_the_file(tmp_path: Path) -> None:
    async with opened(tmp_path):
        assert (tmp_path / "spool.sqlite3").exists()


async def test_what_many_bring_at_once_is_committed_together(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        futures = [spool.append([entry(str(number))]) for number in range(1_000)]
        assert len({id(future) for future in futures}) == 1
        await asyncio.gather(*(asyncio.shield(future) for future in futures))
        assert len(await ids_in(spool)) == 1_000


async def test_a_waiter_that_gives_up_takes_nothing_from_the_others(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:

        async def bring(message_id: str) -> None:
            await asyncio.shield(spool.append([entry(message_id)]))

        patient, hasty = asyncio.create_task(bring("A")), asyncio.create_task(bring("B"))
        await asyncio.sleep(0)
        hasty.cancel()
        await patient
        assert await ids_in(spool) == ["A", "B"]


async def test_stop_writes_what_was_accepted(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        accepted = spool.append([entry("A")])
    assert accepted.done()
    async with opened(tmp_path) as spool:
        assert await ids_in(spool) == ["A"]


async def test_an_id_never_comes_again_after_its_row_is_gone(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.append([entry("A")])
        (first,) = await spool.take_fresh(0, 10)
        await spool.apply_to_fresh(Disposition([first.id]))
    async with opened(tmp_path) as spool:
        await spool.append([entry("B")])
        (second,) = await spool.take_fresh(first.id, 10)
        assert second.entry.report.provider_message_id == "B"


async def test_waiting_reports_come_back_when_they_are_due_and_not_before(tmp_path: Path) -> None:
    clock = ManualClock()
    now = int(clock.now().timestamp()) * 1_000_000
    async with opened(tmp_path, clock) as spool:
        await spool.append([entry("A"), entry("B")])
        taken = await spool.take_fresh(0, 10)
        waiting = [(now + 2_000_000, taken[0].entry), (now + 1_000_000, taken[1].entry)]
        await spool.apply_to_fresh(Disposition([row.id for row in taken], waiting))
        assert await spool.take_fresh(0, 10) == []
        assert await spool.take_due(10) == ([], timedelta(seconds=1))
        clock.advance(timedelta(seconds=3))
        due, _ = await spool.take_due(10)
        assert [row.entry.report.provider_message_id for row in due] == ["B", "A"]
        await spool.apply_to_waiting(Disposition([row.id for row in due]))
        assert await spool.take_due(10) == ([], None)


async def test_more_than_the_queue_holds_is_refused_and_leaves_no_trace(tmp_path: Path) -> None:
    async with opened(tmp_path, limits=SpoolLimits(max_queued=3, min_free_bytes=0)) as spool:
        stored = spool.append([entry("A"), entry("B")])
        with pytest.raises(SpoolFullError, match="QUEUE_FULL"):
            spool.append([entry("C"), entry("D")])
        await stored
        await spool.append([entry("E")])
        assert await ids_in(spool) == ["A", "B", "E"]


async def test_a_full_spool_takes_no_more_until_there_is_room_again(tmp_path: Path) -> None:
    async with opened(tmp_path, limits=SpoolLimits(max_bytes=200_000, min_free_bytes=0)) as spool:
        await spool.append([entry(f"{number:064}") for number in range(2_000)])
        await spool.maintain()
        assert spool.closed_because == "SPOOL_FULL"
        with pytest.raises(SpoolFullError, match="SPOOL_FULL"):
            spool.append([entry("A")])
        await spool.apply_to_fresh(Disposition([row.id for row in await spool.take_fresh(0, 2_000)]))
        await spool.maintain()
        assert spool.closed_because == ""
        await spool.append([entry("A")])


async def test_a_disk_that_is_nearly_full_is_not_filled(tmp_path: Path) -> None:
    async with opened(tmp_path, limits=SpoolLimits(min_free_bytes=2**60)) as spool:
        with pytest.raises(SpoolFullError, match="DISK_FULL"):
            spool.append([entry("A")])


async def test_a_commit_that_fails_is_said_to_all_who_waited_and_the_next_one_works(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        other = sqlite3.connect(tmp_path / "spool.sqlite3", isolation_level=None)
        other.execute("CREATE TRIGGER broken BEFORE INSERT ON fresh BEGIN SELECT raise(ABORT, 'disk'); END")
        futures = [spool.append([entry("A")]), spool.append([entry("B")])]
        for future in futures:
            with pytest.raises(SpoolFullError, match="DISK_ERROR"):
                await asyncio.shield(future)
        assert spool.closed_because == "DISK_ERROR"
        other.execute("DROP TRIGGER broken")
        other.close()
        await spool.append([entry("C")])
        assert spool.closed_because == ""
        assert await ids_in(spool) == ["C"]


async def test_the_quarantine_is_bounded_by_number_and_age_and_counts_what_it_drops(tmp_path: Path) -> None:
    clock = ManualClock()
    limits = SpoolLimits(min_free_bytes=0, quarantine_max_reports=5, quarantine_max_age=timedelta(days=1))
    async with opened(tmp_path, clock, limits) as spool:
        await spool.append([], [Rejected(n, "NOT_AN_OBJECT", str(n)) for n in range(8)])
        await spool.maintain()
        assert (spool.sizes.quarantined, spool.sizes.quarantine_dropped) == (5, 3)
        clock.advance(timedelta(days=2))
        await spool.maintain()
        assert (spool.sizes.quarantined, spool.sizes.quarantine_dropped) == (0, 8)
    async with opened(tmp_path, clock, limits) as spool:
        assert spool.sizes.quarantine_dropped == 8


async def test_the_lag_is_the_age_of_the_oldest_report_not_forwarded(tmp_path: Path) -> None:
    clock = ManualClock()
    received_at = int(clock.now().timestamp()) * 1_000_000
    async with opened(tmp_path, clock) as spool:
        await spool.append([Entry(Report("A", Status.SENT, "Sent"), received_at)])
        clock.advance(timedelta(seconds=7))
        await spool.maintain()
        assert spool.lag == timedelta(seconds=7)
        await spool.apply_to_fresh(Disposition([row.id for row in await spool.take_fresh(0, 1)]))
        await spool.maintain()
        assert spool.lag == timedelta(0)


async def test_space_that_is_not_needed_any_more_goes_back_to_the_disk(tmp_path: Path) -> None:
    async with opened(tmp_path) as spool:
        await spool.append([entry(f"{number:064}") for number in range(5_000)])
        taken = await spool.take_fresh(0, 5_000)
        await spool.apply_to_fresh(Disposition([row.id for row in taken]))
        await spool.maintain()
        await spool.maintain()
        assert spool.sizes.used_bytes < 100_000
    assert (tmp_path / "spool.sqlite3").stat().st_size < 200_000


def test_a_spool_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "spool.sqlite3"
    connection = open_spool_file(path)
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    with pytest.raises(SettingsError, match="format 7"):
        open_spool_file(path)


def test_quarantined_reports_are_listed_without_numbers_and_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "spool.sqlite3"
    connection = open_spool_file(path)
    statements.quarantine_entries(
        connection,
        1,
        [("UNKNOWN_MESSAGE", Entry(Report("A", Status.SENT, "Sent"), 5, "", 9, 7)), ("REFUSED", entry("B"))],
    )
    statements.quarantine_raw(
        connection,
        1,
        [
            ("NOT_AN_OBJECT", '"call +306912345678 now"'),
            ("STATUS_MISSING", '{"messageId":"C","status":"Sent"}'),  # a later version reads what this one could not
        ],
    )
    monkeypatch.setenv("SPOOL_PATH", str(path))
    assert quarantine.main(["list"]) == 0
    listed = capsys.readouterr().out
    assert [line.split("\t")[2] for line in listed.splitlines()] == [
        "UNKNOWN_MESSAGE",
        "REFUSED",
        "NOT_AN_OBJECT",
        "STATUS_MISSING",
    ]
    assert "6912345678" not in listed
    assert quarantine.main(["replay", "--reason", "UNKNOWN_MESSAGE"]) == 0
    assert "1 reports will be forwarded again, 0 stay" in capsys.readouterr().out
    assert quarantine.main(["replay"]) == 0
    assert "2 reports will be forwarded again, 1 stay" in capsys.readouterr().out
    fresh = statements.take_fresh(connection, 0, 10)
    assert [row.entry.report.provider_message_id for row in fresh] == ["A", "B", "C"]
    assert fresh[0].entry == Entry(Report("A", Status.SENT, "Sent"), 5)  # its horizon begins anew
    assert [row.reason for row in statements.take_quarantined(connection, 0, 10)] == ["NOT_AN_OBJECT"]
    connection.close()


def test_the_quarantine_command_without_a_spool_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPOOL_PATH", str(tmp_path / "none"))
    assert quarantine.main(["list"]) == 2
    assert "set SPOOL_PATH" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
