"""Enqueue: check, count, hold the credits, flip the campaign to SENDING; sending itself goes on in workers.

No hold is ever forgotten. It is written down before the ledger is asked (INTENDED, with a SETTLE task due a while
later), and becomes ADOPTED in the transaction that flips the campaign. Whatever happens in between, a later enqueue
of the same size finds and adopts it; one of another size abandons it; and the SETTLE task gives back what nobody
adopted.
"""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from opentelemetry import metrics
from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.bells import Bells
from bulksms_campaign.campaigns import Campaign, CampaignState, Step, check_content
from bulksms_campaign.counters import Counters
from bulksms_campaign.operations.drafts import locked
from bulksms_campaign.peers.ledger import LedgerPeer, is_decision, ledger_unavailable
from bulksms_campaign.storage.audiences import count_audience
from bulksms_campaign.storage.campaigns import change_campaign, lock_campaign
from bulksms_campaign.storage.counters import set_counters
from bulksms_campaign.storage.events import append_event
from bulksms_campaign.storage.recipients import count_failed
from bulksms_campaign.storage.requests import MutationKey, StoredAnswer, claim_request, find_answer
from bulksms_campaign.storage.reservations import (
    Reservation,
    ReservationState,
    adopt_reservation,
    change_reservation,
    insert_reservation,
    lock_reservation,
    lock_reservations,
)
from bulksms_campaign.storage.tasks import TaskKind, ask_for_task, withdraw_task, withdraw_tasks
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
        intended = await self._database.run_transaction(lambda c: self._intend(c, key, campaign_id, step))
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
        adopted = await self._database.run_transaction(lambda c: self._adopt(c, key, intended, step))
        if isinstance(adopted, DomainError):
            self._bells.settle.ring()
            raise adopted
        self._bells.launch.ring()
        _log.info("campaign enqueued", campaign_id=str(campaign_id), recipients=adopted.created)
        return adopted

    async def _intend(
        self, connection: AsyncConnection, key: MutationKey, campaign_id: UUID, step: Step
    ) -> _Intent | Enqueued:
        campaign = await locked(connection, key.tenant_id, campaign_id)
        answer = await find_answer(connection, key)
        if answer is not None:
            return _replayed(campaign, answer)
        campaign.require(step)
        check = ArgumentCheck()
        check_content(check, campaign.content)
        check.finish()
        units = await _count(connection, campaign, step)
        holds = await lock_reservations(connection, campaign_id, campaign.enqueue_number + 1)
        open_holds = [hold for hold in holds if hold.state is ReservationState.INTENDED]
        for hold in open_holds:
            if hold.units == units:
                return _Intent(campaign, hold, abandoned=False)
        for hold in open_holds:
            await _abandon(connection, hold)
        reservation = _new_reservation(campaign, len(holds) + 1, units)
        await insert_reservation(connection, reservation)
        await ask_for_task(
            connection, TaskKind.SETTLE, reservation.reservation_id, campaign.tenant_id, delay=ABANDONED_AFTER
        )
        return _Intent(campaign, reservation, abandoned=bool(open_holds))

    async def _adopt(
        self, connection: AsyncConnection, key: MutationKey, intended: _Intent, step: Step
    ) -> Enqueued | DomainError:
        campaign = await locked(connection, key.tenant_id, intended.campaign.campaign_id)
        if _is_unchanged(campaign, intended) and await adopt_reservation(connection, intended.reservation):
            return await self._start(connection, key, campaign, intended.reservation, step)
        answer = await find_answer(connection, key)
        if answer is not None:
            return _replayed(campaign, answer)
        # Somebody else's change came first. What was held for this one goes back, unless it is theirs.
        reservation = await lock_reservation(connection, intended.reservation.reservation_id)
        if reservation is not None and reservation.state is ReservationState.INTENDED:
            await _abandon(connection, reservation)
        return _lost_race(campaign, step)

    async def _start(
        self, connection: AsyncConnection, key: MutationKey, campaign: Campaign, reservation: Reservation, step: Step
    ) -> Enqueued:
        campaign_id, units = campaign.campaign_id, reservation.units
        batches = -(-units // self._batch_size)
        await claim_request(connection, key, campaign_id, created=units, enqueued_jobs=batches)
        await withdraw_tasks(
            connection,
            (TaskKind.SETTLE, reservation.reservation_id),
            (TaskKind.START_SCHEDULED, campaign_id),
        )
        counters = None
        if step is Step.ENQUEUE:
            counters = Counters(total=units, queued=units)
            await set_counters(connection, campaign_id, counters)
        await append_event(
            connection, campaign_id, "ENQUEUED", f"{units} recipients, {units} credits reserved, {batches} batches"
        )
        await ask_for_task(connection, TaskKind.LAUNCH, campaign_id, campaign.tenant_id)
        started = await change_campaign(
            connection,
            campaign_id,
            state=CampaignState.SENDING,
            enqueue_number=reservation.enqueue_number,
            enqueued_at=func.clock_timestamp(),
            reservation_id=reservation.reservation_id,
            traceparent=current_traceparent(),
            scheduled_at=None,
            ended_at=None,
            snapshot_at=None,
            submitted_at=None,
        )
        return Enqueued(started, units, batches, replayed=False, counters=counters)


async def _count(connection: AsyncConnection, campaign: Campaign, step: Step) -> int:
    if step is Step.RETRY_FAILED:
        units = await count_failed(connection, campaign.campaign_id, campaign.tenant_id)
        cure = "no recipient failed that could be sent to again"
    else:
        units = (await count_audience(connection, campaign.tenant_id, campaign.content.audience)).reachable
        cure = "import contacts, choose other groups, or check opt-outs"
    if units == 0:
        raise invalid_argument(
            "EMPTY_AUDIENCE",
            f"The audience has no contact that can be written to: {cure}.",
            violations=[FieldViolation("audience", f"reaches nobody: {cure}")],
        )
    return units


def _new_reservation(campaign: Campaign, attempt: int, units: int) -> Reservation:
    number = campaign.enqueue_number + 1
    return Reservation(
        reservation_id=derived_id(_NAMESPACE, campaign.campaign_id, number, attempt),
        campaign_id=campaign.campaign_id,
        tenant_id=campaign.tenant_id,
        enqueue_number=number,
        attempt=attempt,
        state=ReservationState.INTENDED,
        units=units,
        accepted_before=0,
        close_attempts=0,
    )


def _is_unchanged(campaign: Campaign, intended: _Intent) -> bool:
    before = intended.campaign
    return campaign.state is before.state and campaign.revision == before.revision


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


async def _abandon(connection: AsyncConnection, reservation: Reservation) -> None:
    await change_reservation(connection, reservation.reservation_id, state=ReservationState.ABANDONED)
    await ask_for_task(connection, TaskKind.SETTLE, reservation.reservation_id, reservation.tenant_id)


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
