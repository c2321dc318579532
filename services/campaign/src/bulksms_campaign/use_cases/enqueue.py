"""Enqueue: check, count, hold the credits, flip the campaign to SENDING; sending itself goes on in workers.

No hold is ever forgotten. It is written down before the ledger is asked (INTENDED, with a SETTLE task due a while
later), and becomes ADOPTED in the transaction that flips the campaign. Whatever happens in between, a later enqueue
of the same size finds and adopts it; one of another size abandons it; and the SETTLE task gives back what nobody
adopted.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from opentelemetry import metrics
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.campaigns import Campaign, Step, campaign_not_found, check_content
from bulksms_campaign.domain.counters import Counters
from bulksms_campaign.peers.ledger import LedgerPeer, is_decision, ledger_unavailable
from bulksms_campaign.storage.audiences import size_of_audience
from bulksms_campaign.storage.campaigns import lock_campaign
from bulksms_campaign.storage.enqueues import (
    OvertakenError,
    adopt_hold,
    find_intentions,
    flip_to_sending,
    lock_to_enqueue,
    write_intention,
)
from bulksms_campaign.storage.events import append_event
from bulksms_campaign.storage.recipients import count_failed
from bulksms_campaign.storage.requests import MutationKey, StoredAnswer, find_answer
from bulksms_campaign.storage.reservations import (
    Reservation,
    ReservationState,
    change_reservation,
    lock_reservation,
)
from bulksms_campaign.storage.tasks import TaskKind, ask_for_task, withdraw_task
from bulksms_campaign.use_cases.drafts import locked
from bulksms_campaign.use_cases.signals import Bells
from servicekit import logs
from servicekit.arguments import ArgumentCheck
from servicekit.database import Database
from servicekit.errors import DomainError, FieldViolation, conflict, invalid_argument
from servicekit.ids import derived_id
from servicekit.telemetry import current_traceparent

_NAMESPACE = UUID("0d9d1c2a-7a0e-4b53-8a43-1f3f9d4b6e77")
ABANDONED_AFTER = timedelta(seconds=60)
"""An enqueue that has not finished after this long never will: its deadline is far shorter."""

_log = logs.get_logger("bulksms_campaign.enqueue")


class Enqueued(NamedTuple):
    """A campaign on its way: recipients counted, and the batches they make."""

    campaign: Campaign
    created: int
    enqueued_jobs: int
    replayed: bool
    counters: Counters | None = None
    """As they are now, where that is known without reading them."""


class _Intent(NamedTuple):
    campaign: Campaign
    reservation: Reservation
    abandoned: bool


class Enqueue:
    """EnqueueCampaign and RetryFailedRecipients."""

    def __init__(self, database: Database, ledger: LedgerPeer, bells: Bells, *, batch_size: int) -> None:
        self._database = database
        self._ledger = ledger
        self._bells = bells
        self._batch_size = batch_size
        self._enqueues = metrics.get_meter("bulksms_campaign").create_counter(
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
        intended = await self._database.run_raw_transaction(lambda c: _intend(c, key, campaign_id, step))
        if not isinstance(intended, _Intent):
            return intended
        if intended.abandoned:
            self._bells.settle.ring()
        reservation = intended.reservation
        try:
            await self._ledger.reserve(key.tenant_id, reservation.reservation_id, reservation.units, campaign_id)
        except DomainError as error:
            if not is_decision(error):
                raise ledger_unavailable(error) from error
            reason = error.reason
            await self._database.run_transaction(lambda c: _note_refusal(c, key.tenant_id, intended, reason))
            raise
        try:
            started = await self._database.run_raw_transaction(lambda c: self._start(c, key, intended, step))
        except OvertakenError:
            return await self._overtaken(key, intended, step)
        self._bells.launch.ring()
        _log.info("campaign enqueued", campaign_id=str(campaign_id), recipients=started.created)
        return started

    async def _start(self, driver: Any, key: MutationKey, intended: _Intent, step: Step) -> Enqueued:
        reservation, units = intended.reservation, intended.reservation.units
        batches = -(-units // self._batch_size)
        campaign = await flip_to_sending(driver, intended.campaign, reservation, current_traceparent())
        detail = f"{units} recipients, {units} credits reserved, {batches} batches"
        await adopt_hold(driver, key, reservation, step, batches, detail)
        counters = Counters(total=units, queued=units) if step is Step.ENQUEUE else None
        return Enqueued(campaign, units, batches, replayed=False, counters=counters)

    async def _overtaken(self, key: MutationKey, intended: _Intent, step: Step) -> Enqueued:
        found = await self._database.run_transaction(lambda c: _look_again(c, key, intended, step))
        if isinstance(found, DomainError):
            self._bells.settle.ring()
            raise found
        return found


async def _intend(driver: Any, key: MutationKey, campaign_id: UUID, step: Step) -> _Intent | Enqueued:
    campaign = await lock_to_enqueue(driver, key.tenant_id, campaign_id)
    if campaign is None:
        raise campaign_not_found(campaign_id)
    found = await find_intentions(driver, key, campaign, campaign.content.audience.single_list)
    if found.answer is not None:
        return _replayed(campaign, found.answer)
    campaign.require(step)
    check = ArgumentCheck()
    check_content(check, campaign.content)
    check.finish()
    units = await _count(driver, campaign, step, found.reachable)
    for attempt, intended_units in found.intended:
        if intended_units == units:
            return _Intent(campaign, _reservation(campaign, attempt, units), abandoned=False)
    reservation = _reservation(campaign, found.attempts + 1, units)
    abandoned = [_reservation_id(campaign, attempt) for attempt, _ in found.intended]
    await write_intention(driver, reservation, abandoned, ABANDONED_AFTER)
    return _Intent(campaign, reservation, abandoned=bool(abandoned))


async def _count(driver: Any, campaign: Campaign, step: Step, kept_size: int) -> int:
    audience = campaign.content.audience
    if step is Step.RETRY_FAILED:
        units = await count_failed(driver, campaign.campaign_id, campaign.tenant_id)
        cure = "no recipient failed that could be sent to again"
    else:
        composed = audience.single_list is None
        units = (await size_of_audience(driver, campaign.tenant_id, audience)).reachable if composed else kept_size
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
        state=ReservationState.INTENDED,
        units=units,
        accepted_before=0,
        close_attempts=0,
    )


def _reservation_id(campaign: Campaign, attempt: int) -> UUID:
    return derived_id(_NAMESPACE, campaign.campaign_id, campaign.enqueue_number + 1, attempt)


async def _look_again(
    connection: AsyncConnection, key: MutationKey, intended: _Intent, step: Step
) -> Enqueued | DomainError:
    """Somebody else's change came first. What was held for this one goes back, unless it is theirs."""
    campaign = await locked(connection, key.tenant_id, intended.campaign.campaign_id)
    answer = await find_answer(connection, key)
    if answer is not None:
        return _replayed(campaign, answer)
    reservation = await lock_reservation(connection, intended.reservation.reservation_id)
    if reservation is not None and reservation.state is ReservationState.INTENDED:
        await change_reservation(connection, reservation.reservation_id, state=ReservationState.ABANDONED)
        await ask_for_task(connection, TaskKind.SETTLE, reservation.reservation_id, reservation.tenant_id)
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


async def _note_refusal(connection: AsyncConnection, tenant_id: str, intended: _Intent, reason: str) -> None:
    campaign = await lock_campaign(connection, tenant_id, intended.campaign.campaign_id)
    if campaign is None:  # a draft deleted meanwhile; nothing was held
        return
    reservation_id = intended.reservation.reservation_id
    reservation = await lock_reservation(connection, reservation_id)
    if reservation is not None and reservation.state is ReservationState.INTENDED:
        await change_reservation(connection, reservation_id, state=ReservationState.REFUSED)
        await withdraw_task(connection, TaskKind.SETTLE, reservation_id)
        await append_event(connection, campaign.campaign_id, "ENQUEUE_REFUSED", reason)


def _replayed(campaign: Campaign, answer: StoredAnswer) -> Enqueued:
    return Enqueued(campaign, answer.created, answer.enqueued_jobs, replayed=True)
