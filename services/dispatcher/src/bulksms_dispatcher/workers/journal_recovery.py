"""The journal's other half: responses that a process took with it to its grave, read back and recorded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from bulksms_dispatcher.domain.known_ids import KnownIds
from bulksms_dispatcher.domain.protocol import BatchState, OutcomeKind
from bulksms_dispatcher.domain.provider_outcomes import Exchange, Phase, Promises, classify
from bulksms_dispatcher.domain.recipients import unpack, unpack_positions
from bulksms_dispatcher.domain.requests import render_bulk, render_single
from bulksms_dispatcher.journal.journal import Journal
from bulksms_dispatcher.journal.records import JournalRecord, decode_all
from bulksms_dispatcher.journal.slots import claim_abandoned
from bulksms_dispatcher.metrics import Metrics
from bulksms_dispatcher.storage import recovery
from bulksms_dispatcher.storage.recovery import SentBatch
from bulksms_dispatcher.workers.recorder import Recorder
from servicekit import logs
from servicekit.database import Database

__all__ = ["JournalRecovery"]

_BATCHES_AT_ONCE = 1000
_log = logs.get_logger("bulksms.dispatcher.journal")


class JournalRecovery:
    """Reads the segments of processes that are gone: the last owner of the own slot, and of every unlocked one.

    A segment is deleted once every response in it is in the database or has become meaningless there.
    """

    def __init__(
        self,
        journal: Journal,
        database: Database,
        recorder: Recorder,
        known: KnownIds,
        metrics: Metrics,
        promises: Promises,
    ) -> None:
        self._journal = journal
        self._database = database
        self._recorder = recorder
        self._known = known
        self._metrics = metrics
        self._promises = promises

    async def recover_once(self) -> None:
        """One round of the worker."""
        while self._journal.left_behind:
            await self._recover(self._journal.left_behind[0])
            del self._journal.left_behind[0]
        for slot in claim_abandoned(self._journal.folder):
            for segment in slot.segments():
                await self._recover(segment)

    async def _recover(self, segment: Path) -> None:
        records = list(decode_all(await asyncio.to_thread(segment.read_bytes)))
        recovered = 0
        for start in range(0, len(records), _BATCHES_AT_ONCE):
            recovered += await self._recover_open(records[start : start + _BATCHES_AT_ONCE])
        await asyncio.to_thread(segment.unlink)
        _log.info("journal read back", responses=len(records), recovered=recovered)

    async def _recover_open(self, records: Sequence[JournalRecord]) -> int:
        async with self._database.connect() as connection:
            waiting: set[UUID] = await recovery.find_open(connection, [record.batch_id for record in records])
        recovered = 0
        for record in records:
            if record.batch_id in waiting:
                recovered += await self._recover_record(record)
        return recovered

    async def _recover_record(self, record: JournalRecord) -> bool:
        async with self._database.connect() as connection:
            sent = await recovery.find_sent(connection, record.batch_id)
        if sent is None or sent.batch.attempt_id != record.attempt_id:
            return False
        opted_out_positions = unpack_positions(sent.opted_out_positions) if sent.opted_out_positions else []
        parts = _parts(sent, opted_out_positions)
        exchange = Exchange(Phase.RECEIVED, status=record.status, body=record.body, retry_after=record.retry_after)
        verdict = classify(exchange, len(parts), self._known, self._promises)
        if verdict.kind is OutcomeKind.AMBIGUOUS and sent.state is BatchState.AMBIGUOUS:
            return False  # it says no more than is known
        self._known.add(verdict.message_ids)
        await self._recorder.record(sent.batch, verdict, opted_out_positions, parts)
        self._metrics.journal_recovered.add(1, {"outcome": verdict.kind.value})
        _log.warning("response recovered from the journal", batch_id=str(record.batch_id), outcome=verdict.kind.value)
        return True


def _parts(sent: SentBatch, opted_out_positions: Sequence[int]) -> Sequence[int]:
    """Of each message that was asked for."""
    batch, recipients = sent.batch, unpack(sent.batch.packed)
    if batch.is_single_message:
        return render_single("", batch.sender, batch.text, recipients.phones[0]).parts
    return render_bulk(
        "", batch.sender, batch.text, batch.variable_names, recipients, frozenset(opted_out_positions)
    ).parts
