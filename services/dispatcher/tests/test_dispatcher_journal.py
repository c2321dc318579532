"""The journal of responses: on disk before the database, read back after a crash, bounded, torn ends ignored."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from bulksms_dispatcher.journal.journal import Journal
from bulksms_dispatcher.journal.records import JournalRecord, decode_all, encode
from bulksms_dispatcher.journal.slots import claim_abandoned
from bulksms_dispatcher.metrics import Metrics
from bulksms_dispatcher.settings import Settings
from devstack.eventually import eventually
from servicekit.database import Database
from servicekit.lifecycle import running
from servicekit.settings import SettingsError

from .dispatcher_support import Peers, Provider, header, phones, serving, submit

pytestmark = pytest.mark.slow


def record(body: bytes = b"{}") -> JournalRecord:
    return JournalRecord(uuid.uuid4(), uuid.uuid4(), 200, None, body)


@asynccontextmanager
async def opened(folder: Path, **changes: int) -> AsyncIterator[Journal]:
    journal = Journal(folder, Metrics(), **changes)
    async with running([journal]):
        yield journal


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("slot-*/*.journal"))


async def test_responses_are_on_disk_when_append_returns_and_are_read_back_as_they_were(tmp_path: Path) -> None:
    written = [record(bytes([n]) * n) for n in range(50)]
    async with opened(tmp_path) as journal:
        await asyncio.gather(*(journal.append(each) for each in written))
        (segment,) = segments(tmp_path)
        assert list(decode_all(segment.read_bytes())) == written
    assert segments(tmp_path) == [segment]  # nobody said that they were committed


async def test_a_torn_or_damaged_end_is_ignored_and_what_is_before_it_is_not() -> None:
    first, second = encode(record(b"first")), encode(record(b"second"))
    for cut in range(len(second)):
        assert [found.body for found in decode_all(first + second[:cut])] == [b"first"]
    damaged = bytearray(second)
    damaged[-1] ^= 1
    assert [found.body for found in decode_all(first + damaged)] == [b"first"]
    assert list(decode_all(b"\xff" * 100)) == []


async def test_segments_are_bounded_and_deleted_once_everything_in_them_is_committed(tmp_path: Path) -> None:
    async with opened(tmp_path, segment_bytes=1000) as journal:
        tickets = [await journal.append(record(b"x" * 400)) for _ in range(10)]
        assert len(segments(tmp_path)) == 5
        for ticket in tickets[:8]:
            journal.committed(ticket)
        assert len(segments(tmp_path)) == 1
        journal.committed(tickets[8])
        assert len(segments(tmp_path)) == 1
        journal.committed(tickets[9])
    assert segments(tmp_path) == []


async def test_each_process_has_a_slot_of_its_own_and_takes_over_those_of_the_dead_only(tmp_path: Path) -> None:
    async with opened(tmp_path) as one, opened(tmp_path) as two:
        await one.append(record())
        await two.append(record())
        assert [path.parent.name for path in segments(tmp_path)] == ["slot-00", "slot-01"]
        assert list(claim_abandoned(tmp_path)) == []
    assert [slot.folder.name for slot in claim_abandoned(tmp_path)] == ["slot-00", "slot-01"]


async def test_a_folder_that_cannot_be_used_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match="JOURNAL_PATH"):
        await Journal(tmp_path / "file", Metrics()).start()


@pytest.mark.parametrize("state", ["ARMED", "AMBIGUOUS"])
async def test_a_response_the_database_never_got_resolves_its_batch_after_the_crash(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers, database: Database, state: str
) -> None:
    async with serving(configure()) as dispatcher:
        head = header(text="Hi {{name}}", variable_names=["name"])
        await submit(dispatcher, phones(10), head, [str(n) for n in range(10)])
        await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 10})
        (batch,) = await dispatcher.batches()
    reported = peers.campaign.recipients
    peers.campaign.results.clear()
    peers.ledger.captures.clear()
    attempt_id, body = await as_if_the_commit_had_been_lost(database, state)
    leave_behind(configure().journal_path, batch.batch_id, attempt_id, body)
    async with serving(configure()) as dispatcher:
        await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 10})
        assert peers.campaign.recipients == reported
        await eventually(lambda: peers.ledger.captured == 10)
        assert await dispatcher.states() == {"ACCEPTED": 1}
    assert simulator.times_accepted() == {1: 10}
    assert segments(configure().journal_path) == []


async def test_a_response_of_an_earlier_attempt_changes_nothing(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers, database: Database
) -> None:
    simulator.script("accept-then-reset")
    async with serving(configure()) as dispatcher:
        await submit(dispatcher, phones(10))
        await eventually(lambda: peers.campaign.outcomes == {"AMBIGUOUS": 10})
        (batch,) = await dispatcher.batches()
    leave_behind(configure().journal_path, batch.batch_id, uuid.uuid4(), b'{"error":"no"}', status=400)
    leave_behind(configure().journal_path, str(uuid.uuid4()), uuid.uuid4(), b"{}", slot=1)
    async with serving(configure()) as dispatcher:
        await eventually(lambda: segments(configure().journal_path) == [])
        assert await dispatcher.states() == {"AMBIGUOUS": 1}


def leave_behind(
    folder: Path, batch_id: str, attempt_id: uuid.UUID, body: bytes, *, status: int = 200, slot: int = 3
) -> None:
    """What a process that died has left."""
    path = folder / f"slot-{slot:02d}"
    path.mkdir(parents=True)
    encoded = encode(JournalRecord(uuid.UUID(batch_id), attempt_id, status, None, body))
    (path / "000000000001.journal").write_bytes(encoded + encoded[:7])


async def as_if_the_commit_had_been_lost(database: Database, state: str) -> tuple[uuid.UUID, bytes]:
    """Undo what recording the only batch's response wrote; returns its attempt and the response's body."""
    number = {"ARMED": 3, "AMBIGUOUS": 6}[state]
    lease = "clock_timestamp() + interval '1 hour'" if state == "ARMED" else "NULL"
    async with database.begin() as connection:
        row = (await connection.execute(text("SELECT bulk_id, message_ids FROM provider_responses"))).one()
        await connection.execute(text("DELETE FROM provider_responses"))
        await connection.execute(text("DELETE FROM outbox"))
        await connection.execute(text("UPDATE attempts SET ended_at = NULL, outcome = '', accepted = 0"))
        undone = text(f"UPDATE batches SET state = {number}, bulk_id = '', lease_until = {lease} RETURNING attempt_id")
        attempt_id: uuid.UUID = (await connection.execute(undone)).scalar_one()
    ids = ",".join(f'{{"messageId":"{message_id}"}}' for message_id in row.message_ids.decode().split("\n"))
    return attempt_id, f'{{"bulkId":"{row.bulk_id}","messages":[{ids}]}}'.encode()
