"""Settlement: every hold ends at the ledger: closed with what was sent, or given back when nobody uses it."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from opentelemetry import metrics, trace
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.peers.ledger import LedgerPeer, is_decision
from bulksms_campaign.storage.campaigns import lock_campaign_by_id, read_campaign_by_id
from bulksms_campaign.storage.counters import read_counters
from bulksms_campaign.storage.events import append_event
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

_log = logs.get_logger("bulksms_campaign.settlement")


class _Hold(NamedTuple):
    reservation: Reservation
    captured: int
    traceparent: str


class Settlement:
    """Work of TaskKind.SETTLE; the subject is a reservation."""

    def __init__(self, database: Database, ledger: LedgerPeer, tracer: trace.Tracer | None = None) -> None:
        self._database = database
        self._ledger = ledger
        self._tracer = tracer or trace.get_tracer("bulksms_campaign.settlement")
        self._refused = metrics.get_meter("bulksms_campaign").create_counter(
            "campaign.closes_refused", description="Closes the ledger refused because its captured figure differs"
        )

    async def work(self, task: Task) -> timedelta | None:
        """Close the hold, or find out that there is nothing to close."""
        hold = await self._database.run_transaction(lambda c: _take(c, task.subject))
        if hold is None:
            return None
        context = context_from_traceparent(hold.traceparent) if hold.traceparent else None
        with self._tracer.start_as_current_span("campaign.settle", context=context) as span:
            span.set_attribute("bulksms.reservation_id", str(task.subject))
            if hold.reservation.state is ReservationState.ABANDONED and not await self._was_granted(hold):
                await self._database.run_transaction(lambda c: _note_refused(c, task.subject))
                return None
            return await self._close(hold)

    async def _was_granted(self, hold: _Hold) -> bool:
        """Ask again: the same request id gets the first decision, or, if the first never arrived, makes one now.

        Either way the answer is known afterwards; to look only would miss a request that is still on its way.
        """
        held = hold.reservation
        try:
            await self._ledger.reserve(held.tenant_id, held.reservation_id, held.units, held.campaign_id)
        except DomainError as error:
            if is_decision(error):
                return False
            raise
        return True

    async def _close(self, hold: _Hold) -> timedelta | None:
        held = hold.reservation
        try:
            released = await self._ledger.close_reservation(
                held.tenant_id, held.reservation_id, hold.captured, held.close_attempts
            )
        except DomainError as error:
            if not is_decision(error):
                raise
            if await self._ledger.is_closed(held.tenant_id, held.reservation_id):
                released = held.units - hold.captured
            else:
                self._refused.add(1)
                refusal = error
                await self._database.run_transaction(lambda c: _note_close_refused(c, hold, refusal))
                return _DELAYS[held.close_attempts] if held.close_attempts < len(_DELAYS) else SLOWEST
        await self._database.run_transaction(lambda c: _note_closed(c, hold, released))
        return None


async def _take(connection: AsyncConnection, reservation_id: UUID) -> _Hold | None:
    """The hold and what was sent on it; an intention nobody finished becomes ABANDONED. None: nothing to do."""
    reservation = await lock_reservation(connection, reservation_id)
    if reservation is None or reservation.state in (ReservationState.REFUSED, ReservationState.CLOSED):
        return None
    if reservation.state is ReservationState.INTENDED:
        await change_reservation(connection, reservation_id, state=ReservationState.ABANDONED)
        reservation = reservation._replace(state=ReservationState.ABANDONED)
    if reservation.state is ReservationState.ABANDONED:
        return _Hold(reservation, 0, "")
    campaign = await read_campaign_by_id(connection, reservation.campaign_id)
    counters = (await read_counters(connection, [reservation.campaign_id]))[reservation.campaign_id].counters
    assert campaign is not None, "only drafts are deleted"  # noqa: S101
    return _Hold(reservation, counters.accepted - reservation.accepted_before, campaign.traceparent)


async def _note_refused(connection: AsyncConnection, reservation_id: UUID) -> None:
    await change_reservation(connection, reservation_id, state=ReservationState.REFUSED)


async def _note_closed(connection: AsyncConnection, hold: _Hold, released: int) -> None:
    reservation = hold.reservation
    campaign = await lock_campaign_by_id(connection, reservation.campaign_id)
    await change_reservation(connection, reservation.reservation_id, state=ReservationState.CLOSED)
    if campaign is not None and reservation.state is ReservationState.ADOPTED:
        detail = f"{hold.captured} captured, {released} released"
        await append_event(connection, campaign.campaign_id, "RESERVATION_CLOSED", detail)


async def _note_close_refused(connection: AsyncConnection, hold: _Hold, error: DomainError) -> None:
    """The next attempt has another number, hence another request id. Long refused, it is an alarm, once."""
    reservation = hold.reservation
    campaign = await lock_campaign_by_id(connection, reservation.campaign_id)
    attempts = reservation.close_attempts + 1
    await change_reservation(connection, reservation.reservation_id, close_attempts=attempts)
    if attempts == PATIENCE and campaign is not None:
        detail = (
            f"{error.reason}: {hold.captured} expected, {error.metadata.get('captured', 'another number')} captured"
        )
        await append_event(connection, campaign.campaign_id, "CLOSE_REFUSED", detail)
    if attempts >= PATIENCE:
        _log.error(
            "the ledger refuses to close a reservation",
            reservation_id=str(reservation.reservation_id),
            campaign_id=str(reservation.campaign_id),
            reason=error.reason,
            expected=hold.captured,
            captured=error.metadata.get("captured", ""),
            attempts=attempts,
        )
