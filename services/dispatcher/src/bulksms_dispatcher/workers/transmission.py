"""Transmission: from an open connection to the response on disk, and what is certain of a batch at each point."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from bulksms_dispatcher.domain.batches import LeasedBatch
from bulksms_dispatcher.domain.provider_outcomes import Exchange, Fault, Phase
from bulksms_dispatcher.domain.recipients import pack_positions
from bulksms_dispatcher.journal.journal import Journal
from bulksms_dispatcher.journal.records import JournalRecord
from bulksms_dispatcher.pacing.in_flight import InFlightRequest
from bulksms_dispatcher.providers.mitto import MittoConnection
from bulksms_dispatcher.storage import claims
from bulksms_dispatcher.workers import send_spans
from bulksms_dispatcher.workers.patient_writes import DATABASE_ERRORS
from bulksms_dispatcher.workers.preparation import Prepared
from bulksms_dispatcher.workers.recorder import Recorder
from bulksms_dispatcher.workers.traffic_account import TrafficAccount
from servicekit import logs
from servicekit.database import Database

__all__ = ["NotBegun", "SendProgress", "Transmission"]

ARM_TIMEOUT_SECONDS = 10.0
ABANDON_TIMEOUT_SECONDS = 3.0

_log = logs.get_logger("bulksms.dispatcher.transmission")


class NotBegun(Exception):  # noqa: N818 - a state of affairs: nothing was sent, and the batch goes back
    """No byte of the request was written, and none will be."""


@dataclass(slots=True)
class SendProgress:
    """How far one attempt came: whatever interrupts it, this decides what may be said of its batch."""

    batch: LeasedBatch
    in_flight: InFlightRequest
    opted_out: Sequence[int] = ()
    """Positions of the batch that are not in the request."""
    phase: Phase = Phase.WAITING
    sent_at: float = 0.0
    is_late: bool = False
    """No response came in time, and the account has heard of it."""

    @property
    def may_have_been_sent(self) -> bool:
        """True from the moment the first byte may have left."""
        return self.phase >= Phase.SENDING

    def move_to(self, phase: Phase) -> None:
        """As the provider's connection says."""
        self.phase = phase
        if phase is Phase.SENDING:
            self.sent_at = time.monotonic()
        elif phase is Phase.AWAITING:
            self.in_flight.written()
        elif phase is Phase.RECEIVING:
            self.in_flight.arrived()


class Transmission:
    """The steps of rule 1 and after; in which order they are taken stands in the sender."""

    def __init__(
        self,
        database: Database,
        recorder: Recorder,
        journal: Journal,
        account: TrafficAccount,
        *,
        worker: str,
        lease: timedelta,
    ) -> None:
        self._database = database
        self._recorder = recorder
        self._journal = journal
        self._account = account
        self._worker = worker
        self._lease = lease

    async def arm(self, progress: SendProgress, prepared: Prepared, traceparent: str) -> None:
        """LEASED → ARMED, committed; raises NotBegun when the batch must not be sent.

        The last act before the first byte: whoever has anything to say against the request is asked here.
        """
        batch = progress.batch
        progress.phase = Phase.ARMING
        with send_spans.step("arm"):
            try:
                async with asyncio.timeout(ARM_TIMEOUT_SECONDS), self._database.autocommit() as connection:
                    armed = await claims.arm(
                        connection,
                        batch.key,
                        self._worker,
                        lease=self._lease,
                        opt_out_version=prepared.opt_out_version,
                        opted_out_positions=pack_positions(prepared.opted_out) if prepared.opted_out else None,
                        traceparent=traceparent,
                        account=self._account.traffic_account_id,
                        probe_id=batch.probe.probe_id if batch.probe else None,
                    )
            except DATABASE_ERRORS as error:
                raise NotBegun("the database did not confirm the arm") from error
        if not armed:
            progress.phase = Phase.CONNECTED
            raise NotBegun("the batch is not this worker's any more, or must not be sent now")
        if not progress.in_flight.begin():
            # Frozen for longer than its slot was kept: it is another request's by now.
            raise NotBegun("the permit is too old")

    async def send(self, progress: SendProgress, prepared: Prepared, connection: MittoConnection) -> Exchange:
        """What was seen of the request and its response; past the soft timeout the batch is ambiguous until then."""
        request = prepared.request
        exchange = await connection.send(prepared.path, request.body, request.messages, watch=progress.move_to)
        if exchange is None:
            progress.is_late = True
            await self._account.observe_silence(progress.batch)
            await self._recorder.mark_ambiguous(progress.batch, Fault.READ_TIMEOUT.value, prepared.opted_out)
            exchange = await connection.late_response()
        if not progress.may_have_been_sent:
            raise NotBegun("the connection was closed before the first byte")
        return exchange

    async def keep(self, batch: LeasedBatch, exchange: Exchange) -> Path | None:
        """On disk before anything is made of it: whatever happens now, the next process finds it there."""
        if exchange.phase is not Phase.RECEIVED:
            return None  # what was lost on the way proves nothing
        retry_after = exchange.retry_after.total_seconds() if exchange.retry_after is not None else None
        response = JournalRecord(
            batch.batch_id, batch.epoch, batch.attempts + 1, exchange.status, retry_after, exchange.body
        )
        return await self._journal.append(response)

    def committed(self, ticket: Path | None) -> None:
        """The database has what `keep` wrote down."""
        self._journal.committed(ticket)

    async def hand_back(self, progress: SendProgress) -> None:
        """Nothing was sent."""
        if progress.phase is Phase.ARMING:
            # Whether the row is LEASED or ARMED is open: a commit was begun, and its confirmation may have been lost.
            await self._recorder.hand_back_unsent(progress.batch, progress.opted_out)
        else:
            await self._recorder.hand_back(progress.batch)

    async def abandon(self, progress: SendProgress) -> None:
        """Interrupted or broken in the middle: say of the batch what is certain, as far as the time allows."""
        batch = progress.batch
        _log.warning("send abandoned", batch_id=str(batch.batch_id), phase=progress.phase.name)
        try:
            # A process that is told to end must not be held up by a database that is away; the reaper comes later.
            async with asyncio.timeout(ABANDON_TIMEOUT_SECONDS):
                if progress.may_have_been_sent:
                    await self._recorder.mark_ambiguous(batch, Fault.INTERRUPTED.value, progress.opted_out)
                else:
                    await self.hand_back(progress)
        except TimeoutError:
            _log.error("abandoned batch left to the reaper", batch_id=str(batch.batch_id))
