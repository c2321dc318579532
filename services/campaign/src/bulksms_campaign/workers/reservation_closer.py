"""Reservation closer: every reservation ends at the ledger, with what was sent, or with nothing when nobody uses it."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from opentelemetry import metrics, trace
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.events import EventKind
from bulksms_campaign.peers.ledger import ClosedReservation, LedgerPeer, is_decision
from bulksms_campaign.storage.campaigns import lock_campaign
from bulksms_campaign.storage.enqueues import read_accepted_units, read_enqueue
from bulksms_campaign.storage.events import append_event
from bulksms_campaign.storage.instants import read_instant
from bulksms_campaign.storage.reservations import (
    Reservation,
    ReservationState,
    change_reservation,
    lock_reservation,
)
from bulksms_campaign.storage.tasks import Task
from servicekit import logs
from servicekit.database import Database
from servicekit.errors import DomainError
from servicekit.telemetry import context_from_traceparent

PATIENCE = 8
"""Refused closes that are expected (the dispatcher's captures are on their way) before an alarm is raised."""

_DELAYS = [timedelta(seconds=seconds) for seconds in (0.1, 0.2, 0.3, 0.5, 1, 2, 4, 8, 15, 30, 60, 120)]
SLOWEST = timedelta(minutes=5)

_log = logs.get_logger("bulksms.campaign.reservation_closer")


class _Closing(NamedTuple):
    reservation: Reservation
    captured: int
    traceparent: str


class ReservationCloser:
    """Work of TaskKind.CLOSE_RESERVATION; the subject is a reservation."""

    def __init__(self, database: Database, ledger: LedgerPeer, tracer: trace.Tracer | None = None) -> None:
        self._database = database
        self._ledger = ledger
        self._tracer = tracer or trace.get_tracer("bulksms.campaign.reservation_closer")
        self._refused = metrics.get_meter("bulksms.campaign.reservation_closer").create_counter(
            "campaign.closes_refused", description="Closes the ledger refused because its captured figure differs"
        )

    async def work(self, task: Task) -> timedelta | None:
        """Close the reservation, or find out that there is nothing to close."""
        closing = await self._database.run_transaction(lambda c: _prepare(c, task.tenant_id, task.subject))
        if closing is None:
            return None
        context = context_from_traceparent(closing.traceparent) if closing.traceparent else None
        with self._tracer.start_as_current_span("campaign.close_reservation", context=context) as span:
            span.set_attribute("bulksms.reservation_id", str(task.subject))
            reservation = closing.reservation
            if reservation.state is ReservationState.ABANDONED and not await self._was_granted(reservation):
                await self._database.run_transaction(lambda c: _record_refusal(c, reservation))
                return None
            return await self._close(closing)

    async def _was_granted(self, reservation: Reservation) -> bool:
        """Ask again: the same request id gets the first decision, or, if the first never arrived, makes one now.

        Either way it is known afterwards; to look only would miss a request that is still on its way.
        """
        tenant_id, reservation_id = reservation.tenant_id, reservation.reservation_id
        try:
            await self._ledger.reserve(
                tenant_id, reservation_id, reservation.units, reservation.campaign_id, reservation.enqueue_number
            )
        except DomainError as error:
            if is_decision(error):
                return False
            raise
        return True

    async def _close(self, closing: _Closing) -> timedelta | None:
        reservation, captured = closing.reservation, closing.captured
        key = reservation.tenant_id, reservation.reservation_id
        try:
            closed = await self._ledger.close_reservation(*key, captured, reservation.close_attempts)
        except DomainError as error:
            if not is_decision(error):
                raise
            found = await self._ledger.closed_reservation(*key)
            if found is None:
                return await self._refuse(closing, error)
            closed = found
        await self._database.run_transaction(lambda c: _record_close(c, closing, closed))
        return None

    async def _refuse(self, closing: _Closing, error: DomainError) -> timedelta:
        self._refused.add(1)
        await self._database.run_transaction(lambda c: _record_refused_close(c, closing, error))
        attempts = closing.reservation.close_attempts
        return _DELAYS[attempts] if attempts < len(_DELAYS) else SLOWEST


async def _prepare(connection: AsyncConnection, tenant_id: str, reservation_id: UUID) -> _Closing | None:
    """The reservation and what was sent on it; one that nobody confirmed becomes ABANDONED. None: nothing to do."""
    now = await read_instant(connection)
    reservation = await lock_reservation(connection, tenant_id, reservation_id)
    if reservation is None or reservation.state in (ReservationState.REFUSED, ReservationState.CLOSED):
        return None
    if reservation.state is ReservationState.REQUESTED:
        await change_reservation(connection, reservation, now, state=ReservationState.ABANDONED)
        reservation = reservation._replace(state=ReservationState.ABANDONED)
    if reservation.state is ReservationState.ABANDONED:
        return _Closing(reservation, 0, "")
    of_enqueue = tenant_id, reservation.campaign_id, reservation.enqueue_number
    enqueue = await read_enqueue(connection, *of_enqueue)
    assert enqueue is not None, "it was made with the reservation's confirmation"  # noqa: S101
    return _Closing(reservation, await read_accepted_units(connection, *of_enqueue), enqueue.traceparent)


async def _record_refusal(connection: AsyncConnection, reservation: Reservation) -> None:
    now = await read_instant(connection)
    await change_reservation(connection, reservation, now, state=ReservationState.REFUSED)


async def _record_close(connection: AsyncConnection, closing: _Closing, closed: ClosedReservation) -> None:
    reservation = closing.reservation
    locked = await lock_campaign(connection, reservation.tenant_id, reservation.campaign_id)
    now = await read_instant(connection) if locked is None else locked.now
    await change_reservation(connection, reservation, now, state=ReservationState.CLOSED)
    if locked is not None and reservation.state is ReservationState.CONFIRMED:
        kept = f", {closed.authorized} kept for what is ambiguous" if closed.authorized else ""
        detail = f"{closing.captured} captured, {closed.released} released{kept}"
        await append_event(connection, locked, EventKind.RESERVATION_CLOSED, detail)


async def _record_refused_close(connection: AsyncConnection, closing: _Closing, error: DomainError) -> None:
    """The next attempt has another number, hence another request id. Long refused, it is an alarm, once."""
    reservation = closing.reservation
    locked = await lock_campaign(connection, reservation.tenant_id, reservation.campaign_id)
    now = await read_instant(connection) if locked is None else locked.now
    attempts = reservation.close_attempts + 1
    await change_reservation(connection, reservation, now, close_attempts=attempts)
    captured = error.metadata.get("captured", "")
    if attempts == PATIENCE and locked is not None:
        detail = f"{error.reason}: {closing.captured} expected, {captured or 'another number'} captured"
        await append_event(connection, locked, EventKind.CLOSE_REFUSED, detail)
    if attempts >= PATIENCE:
        _log.error(
            "the ledger refuses to close a reservation",
            reservation_id=str(reservation.reservation_id),
            campaign_id=str(reservation.campaign_id),
            reason=error.reason,
            expected=closing.captured,
            captured=captured,
            attempts=attempts,
        )
