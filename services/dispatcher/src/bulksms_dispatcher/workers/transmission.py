"""Transmission: from an open connection to the response on disk, and what is certain of a batch at each point."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

from bulksms_dispatcher.domain.authorizations import AuthorizationRefusal, Division, authorization_of, consequence_of
from bulksms_dispatcher.domain.batch_outcomes import Return
from bulksms_dispatcher.domain.batches import LeasedBatch
from bulksms_dispatcher.domain.provider_outcomes import Exchange, Fault, Phase
from bulksms_dispatcher.domain.recipients import pack_positions
from bulksms_dispatcher.journal.journal import Journal
from bulksms_dispatcher.journal.records import JournalRecord
from bulksms_dispatcher.pacing.in_flight import InFlightRequest
from bulksms_dispatcher.peers.ledger import LedgerPeer
from bulksms_dispatcher.providers.mitto import MittoConnection
from bulksms_dispatcher.storage import claims
from bulksms_dispatcher.workers import send_spans
from bulksms_dispatcher.workers.patient_writes import DATABASE_ERRORS
from bulksms_dispatcher.workers.preparation import Prepared
from bulksms_dispatcher.workers.recorder import Recorder
from bulksms_dispatcher.workers.traffic_account import TrafficAccount
from servicekit import logs
from servicekit.database import Database
from servicekit.errors import DomainError

__all__ = ["LEDGER_UNAVAILABLE", "NotAuthorized", "NotBegun", "SendProgress", "Transmission"]

LEDGER_UNAVAILABLE = "LEDGER_UNAVAILABLE"

ARM_TIMEOUT_SECONDS = 10.0
ABANDON_TIMEOUT_SECONDS = 3.0

_log = logs.get_logger("bulksms.dispatcher.transmission")


class NotBegun(Exception):  # noqa: N818 - a state of affairs: nothing was sent, and the batch goes back
    """No byte of the request was written, and none will be; `reason` is the batch's while it waits."""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class NotAuthorized(Exception):  # noqa: N818 - a state of affairs: the ledger has decided
    """The ledger does not allow the attempt; no byte of the request was written, and none will be."""

    def __init__(self, refusal: AuthorizationRefusal) -> None:
        super().__init__(refusal.reason)
        self.refusal = refusal


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
    """The steps of rule 1 and after; in which order they are taken stands in the sender.

    `draw_attempt_id` gives a new random id for each arm: it lives in this process's memory until the ledger has
    authorized it, and nobody authorizes with an id read from a row.
    """

    def __init__(
        self,
        database: Database,
        ledger: LedgerPeer,
        recorder: Recorder,
        journal: Journal,
        account: TrafficAccount,
        *,
        worker: str,
        lease: timedelta,
        draw_attempt_id: Callable[[], UUID] = uuid4,
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._recorder = recorder
        self._journal = journal
        self._account = account
        self._worker = worker
        self._lease = lease
        self._draw_attempt_id = draw_attempt_id

    async def arm(self, progress: SendProgress, prepared: Prepared, traceparent: str) -> None:
        """LEASED → ARMED under a new attempt, committed; raises NotBegun when the batch must not be sent.

        Whoever in the dispatcher has anything to say against the request is asked here.
        """
        batch = progress.batch = replace(progress.batch, attempt_id=self._draw_attempt_id())
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

    async def authorize(self, progress: SendProgress) -> None:
        """The last act before the first byte; raises NotAuthorized, or NotBegun when the ledger did not answer.

        A yes that comes after its time is nobody's: the attempt is void before the batch is READY again.
        """
        with send_spans.step("authorize"):
            try:
                refusal = await self._ledger.authorize(authorization_of(progress.batch, progress.opted_out))
            except DomainError as error:
                raise NotBegun("the ledger did not answer", LEDGER_UNAVAILABLE) from error
        if refusal is not None:
            raise NotAuthorized(refusal)
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
        if batch.attempt_id is None:
            raise ValueError("only an armed batch has a response")
        response = JournalRecord(batch.batch_id, batch.attempt_id, exchange.status, retry_after, exchange.body)
        return await self._journal.append(response)

    def committed(self, ticket: Path | None) -> None:
        """The database has what `keep` wrote down."""
        self._journal.committed(ticket)

    async def hand_back(self, progress: SendProgress, returned: Return = Return()) -> None:  # noqa: B008 - immutable
        """Nothing was sent."""
        if progress.phase is Phase.ARMING:
            # It is ARMED, or nobody knows: a commit was begun, and its confirmation may have been lost.
            await self._recorder.hand_back_unsent(progress.batch, progress.opted_out, returned)
        else:
            await self._recorder.hand_back(progress.batch)

    async def refused(self, progress: SendProgress, refusal: AuthorizationRefusal) -> None:
        """The ledger has decided: the batch ends, or goes back."""
        consequence = consequence_of(refusal, progress.batch, progress.opted_out)
        if isinstance(consequence, Return):
            await self.hand_back(progress, consequence)
        elif isinstance(consequence, Division):
            await self._recorder.hand_back_divided(progress.batch, consequence)
        else:
            await self._recorder.record_refused(progress.batch, consequence)

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
