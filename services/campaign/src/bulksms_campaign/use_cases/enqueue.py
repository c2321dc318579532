"""Enqueue: check, count, reserve the credits, flip the campaign to SENDING; sending itself goes on in workers.

No reservation is ever forgotten. It is recorded before the ledger is asked (REQUESTED, with a CLOSE_RESERVATION task
due a while later), and becomes CONFIRMED in the transaction that flips the campaign. Whatever happens in between, a
later enqueue of the same size finds and confirms it; one of another size abandons it; and the task closes what nobody
confirmed.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from opentelemetry import metrics
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.campaigns import Campaign, Step, campaign_not_found, check_content
from bulksms_campaign.domain.counters import Counters
from bulksms_campaign.domain.events import EventKind
from bulksms_campaign.peers.ledger import LedgerPeer, is_decision, ledger_unavailable
from bulksms_campaign.storage.audiences import size_of_audience
from bulksms_campaign.storage.campaigns import lock_campaign, read_campaign
from bulksms_campaign.storage.enqueue_statements import (
    OvertakenError,
    find_requested,
    lock_to_enqueue,
    record_request,
    start_sending,
)
from bulksms_campaign.storage.events import append_event
from bulksms_campaign.storage.requests import MutationKey, StoredResult, find_result
from bulksms_campaign.storage.reservations import (
    Reservation,
    ReservationState,
    change_reservation,
    lock_reservation,
)
from bulksms_campaign.storage.snapshots import count_failed
from bulksms_campaign.storage.tasks import TaskKind, ask_for_task, withdraw_task
from bulksms_campaign.use_cases.drafts import lock
from bulksms_campaign.use_cases.signals import Signals
from servicekit import logs
from servicekit.arguments import ArgumentCheck
from servicekit.database import Database
from servicekit.errors import DomainError, FieldViolation, conflict, invalid_argument
from servicekit.ids import derived_id
from servicekit.telemetry import current_traceparent

_NAMESPACE = UUID("0d9d1c2a-7a0e-4b53-8a43-1f3f9d4b6e77")
ABANDONED_AFTER = timedelta(seconds=60)
"""An enqueue that has not finished after this long never will: its deadline is far shorter."""

_log = logs.get_logger("bulksms.campaign.enqueue")


class Enqueued(NamedTuple):
    """A campaign on its way: recipients counted, and the batches they make."""

    campaign: Campaign
    created: int
    enqueued_jobs: int
    replayed: bool
    counters: Counters | None = None
    """As they are now, where that is known without reading them."""


class _Replayed(NamedTuple):
    result: StoredResult


class _Request(NamedTuple):
    campaign: Campaign
    reservation: Reservation
    abandoned: bool


class Enqueue:
    """EnqueueCampaign and RetryFailedRecipients."""

    def __init__(self, database: Database, ledger: LedgerPeer, signals: Signals, *, batch_size: int) -> None:
        self._database = database
        self._ledger = ledger
        self._signals = signals
        self._batch_size = batch_size
        self._enqueues = metrics.get_meter("bulksms.campaign.enqueue").create_counter(
            "campaign.enqueues", description="Enqueues by outcome: the reason, or OK"
        )

    async def run(self, key: MutationKey, campaign_id: UUID, step: Step) -> Enqueued:
        """Enqueue a campaign (Step.ENQUEUE) or its failed recipients again (Step.RETRY_FAILED)."""
        try:
            enqueued = await self._run(key, campaign_id, step)
        except DomainError as error:
            self._enqueues.add(1, {"outcome": error.reason})
            raise
        self._enqueues.add(1, {"outcome": "OK"})
        return enqueued

    async def _run(self, key: MutationKey, campaign_id: UUID, step: Step) -> Enqueued:
        requested = await self._database.run_raw_transaction(lambda c: _request(c, key, campaign_id, step))
        if isinstance(requested, _Replayed):
            return await self._replayed(key, campaign_id, requested.result)
        if requested.abandoned:
            self._signals.close_reservation.notify()
        reservation = requested.reservation
        try:
            await self._ledger.reserve(
                key.tenant_id,
                reservation.reservation_id,
                reservation.units,
                campaign_id,
                reservation.enqueue_number,
            )
        except DomainError as error:
            if not is_decision(error):
                raise ledger_unavailable(error) from error
            reason = error.reason
            await self._database.run_transaction(lambda c: _record_refusal(c, requested, reason))
            raise
        try:
            started = await self._database.run_raw_transaction(lambda c: self._start(c, key, requested, step))
        except OvertakenError:
            return await self._overtaken(key, requested, step)
        self._signals.launch.notify()
        _log.info("campaign enqueued", campaign_id=str(campaign_id), recipients=started.created)
        return started

    async def _start(self, driver: Any, key: MutationKey, requested: _Request, step: Step) -> Enqueued:
        reservation, units = requested.reservation, requested.reservation.units
        locked = await lock_to_enqueue(driver, key.tenant_id, reservation.campaign_id)
        if locked is None or locked.campaign.revision != requested.campaign.revision:
            raise OvertakenError
        batches = -(-units // self._batch_size)
        detail = f"{units} recipients, {units} credits reserved, {batches} batches"
        traceparent = current_traceparent()
        # Sent to again, people count as failed until the snapshot has found them.
        queued = units if step is Step.ENQUEUE else 0
        campaign = await start_sending(driver, key, reservation, queued, batches, detail, traceparent, locked.now)
        counters = Counters(total=units, queued=units) if step is Step.ENQUEUE else None
        return Enqueued(campaign, units, batches, replayed=False, counters=counters)

    async def _replayed(self, key: MutationKey, campaign_id: UUID, result: StoredResult) -> Enqueued:
        async with self._database.connect() as connection:
            campaign = await read_campaign(connection, key.tenant_id, campaign_id)
        assert campaign is not None, "only drafts are deleted"  # noqa: S101
        return _replayed(campaign, result)

    async def _overtaken(self, key: MutationKey, requested: _Request, step: Step) -> Enqueued:
        found = await self._database.run_transaction(lambda c: _look_again(c, key, requested, step))
        if isinstance(found, DomainError):
            self._signals.close_reservation.notify()
            raise found
        return found


async def _request(driver: Any, key: MutationKey, campaign_id: UUID, step: Step) -> _Request | _Replayed:
    locked = await lock_to_enqueue(driver, key.tenant_id, campaign_id)
    if locked is None:
        raise campaign_not_found(campaign_id)
    campaign, now = locked
    found = await find_requested(driver, key, campaign, campaign.content.audience.single_list)
    if found.result is not None:
        return _Replayed(found.result)
    campaign.require(step)
    campaign.require_time(now)
    check = ArgumentCheck()
    check_content(check, campaign.content)
    check.finish()
    units = await _count(driver, campaign, step, found.reachable, now)
    for attempt, requested_units in found.requested:
        if requested_units == units:
            return _Request(campaign, _reservation(campaign, attempt, units), abandoned=False)
    reservation = _reservation(campaign, found.attempts + 1, units)
    abandoned = [_reservation_id(campaign, attempt) for attempt, _ in found.requested]
    await record_request(driver, reservation, abandoned, now, ABANDONED_AFTER)
    return _Request(campaign, reservation, abandoned=bool(abandoned))


async def _count(driver: Any, campaign: Campaign, step: Step, cached_size: int, now: datetime) -> int:
    audience = campaign.content.audience
    if step is Step.RETRY_FAILED:
        units = await count_failed(driver, campaign.tenant_id, campaign.campaign_id)
        cure = "no recipient failed that could be sent to again"
    else:
        units = cached_size
        if audience.single_list is None:
            units = (await size_of_audience(driver, campaign.tenant_id, audience, now)).reachable
        cure = "import contacts, choose other groups, or check opt-outs"
    if units == 0:
        raise invalid_argument(
            "EMPTY_AUDIENCE",
            f"The audience has no contact that can be written to: {cure}.",
            violations=[FieldViolation("audience", f"reaches nobody: {cure}")],
        )
    return units


def _reservation(campaign: Campaign, attempt: int, units: int) -> Reservation:
    return Reservation(
        reservation_id=_reservation_id(campaign, attempt),
        campaign_id=campaign.campaign_id,
        tenant_id=campaign.tenant_id,
        enqueue_number=campaign.enqueue_number + 1,
        attempt=attempt,
        state=ReservationState.REQUESTED,
        units=units,
        close_attempts=0,
    )


def _reservation_id(campaign: Campaign, attempt: int) -> UUID:
    return derived_id(_NAMESPACE, campaign.campaign_id, campaign.enqueue_number + 1, attempt)


async def _look_again(
    connection: AsyncConnection, key: MutationKey, requested: _Request, step: Step
) -> Enqueued | DomainError:
    """Somebody else's change came first. What was reserved for this one is closed, unless it is theirs."""
    campaign, now = await lock(connection, key.tenant_id, requested.campaign.campaign_id)
    result = await find_result(connection, key)
    if result is not None:
        return _replayed(campaign, result)
    reservation_id = requested.reservation.reservation_id
    reservation = await lock_reservation(connection, key.tenant_id, reservation_id)
    if reservation is not None and reservation.state is ReservationState.REQUESTED:
        await change_reservation(connection, reservation, now, state=ReservationState.ABANDONED)
        await ask_for_task(connection, TaskKind.CLOSE_RESERVATION, key.tenant_id, reservation_id, now)
    return _lost_race(campaign, step)


def _lost_race(campaign: Campaign, step: Step) -> DomainError:
    try:
        campaign.require(step)
    except DomainError as error:
        return error
    return conflict(
        "CAMPAIGN_CHANGED",
        "The campaign was changed while it was being enqueued: read it again and enqueue it if it is still right.",
        retry_after=timedelta(seconds=1),
    )


async def _record_refusal(connection: AsyncConnection, requested: _Request, reason: str) -> None:
    tenant_id, reservation_id = requested.campaign.tenant_id, requested.reservation.reservation_id
    locked = await lock_campaign(connection, tenant_id, requested.campaign.campaign_id)
    if locked is None:  # a draft deleted meanwhile; nothing was reserved
        return
    reservation = await lock_reservation(connection, tenant_id, reservation_id)
    if reservation is not None and reservation.state is ReservationState.REQUESTED:
        await change_reservation(connection, reservation, locked.now, state=ReservationState.REFUSED)
        await withdraw_task(connection, TaskKind.CLOSE_RESERVATION, tenant_id, reservation_id)
        await append_event(connection, locked, EventKind.ENQUEUE_REFUSED, reason)


def _replayed(campaign: Campaign, result: StoredResult) -> Enqueued:
    return Enqueued(campaign, result.created, result.enqueued_jobs, replayed=True)
