"""Launch: take the snapshot, then hand it to the dispatcher; killed anywhere, it goes on where it was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

from opentelemetry import trace
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms.dispatcher.v1 import dispatch_pb2
from bulksms_campaign.domain.campaigns import UNDER_WAY, Campaign
from bulksms_campaign.domain.counters import Counters, movement
from bulksms_campaign.domain.recipients import Fact
from bulksms_campaign.peers.dispatcher import Chunk, DispatcherPeer, SubmissionProgress, submission_id
from bulksms_campaign.storage.campaigns import LockedCampaign, change_campaign, lock_campaign, read_campaign
from bulksms_campaign.storage.counters import move_counters, set_counters
from bulksms_campaign.storage.events import append_event
from bulksms_campaign.storage.instants import read_instant
from bulksms_campaign.storage.recipients import (
    cancel_queued,
    count_enqueued,
    insert_snapshot,
    read_chunk,
    remove_newest,
    requeue_failed,
)
from bulksms_campaign.storage.reservations import lock_reservation
from bulksms_campaign.storage.tasks import Task, TaskKind, ask_for_task
from bulksms_campaign.use_cases.signals import Signals
from servicekit import logs
from servicekit.database import Database
from servicekit.errors import DomainError
from servicekit.telemetry import context_from_traceparent
from smstext.template import Template

CANCEL_ROWS = 20_000
"""Recipients cancelled in one transaction."""

_log = logs.get_logger("bulksms.campaign.launch")


class Launch:
    """Work of TaskKind.LAUNCH; the subject is a campaign."""

    def __init__(
        self,
        database: Database,
        dispatcher: DispatcherPeer,
        signals: Signals,
        *,
        chunk_size: int,
        tracer: trace.Tracer | None = None,
    ) -> None:
        self._database = database
        self._dispatcher = dispatcher
        self._signals = signals
        self._chunk_size = chunk_size
        self._tracer = tracer or trace.get_tracer("bulksms.campaign.launch")

    async def work(self, task: Task) -> timedelta | None:
        """Do what is left of the launch."""
        async with self._database.connect() as connection:
            campaign = await read_campaign(connection, task.tenant_id, task.subject)
        if campaign is None or campaign.state not in UNDER_WAY or campaign.submitted_at is not None:
            return None
        context = context_from_traceparent(campaign.traceparent)
        with self._tracer.start_as_current_span("campaign.launch", context=context) as span:
            span.set_attributes({"bulksms.campaign_id": str(task.subject), "bulksms.tenant_id": campaign.tenant_id})
            if campaign.snapshot_at is None:
                with self._tracer.start_as_current_span("campaign.snapshot"):
                    await self._database.run_transaction(lambda c: take_snapshot(c, task.tenant_id, task.subject))
            await self._submit(campaign)
        self._signals.complete.notify()
        return None

    async def _submit(self, campaign: Campaign) -> None:
        tenant_id, campaign_id, number = campaign.tenant_id, campaign.campaign_id, campaign.enqueue_number
        async with self._database.connect() as connection:
            recipients = await count_enqueued(connection, tenant_id, campaign_id, number)
        batches = 0
        if recipients:
            progress = await self._dispatcher.submission(submission_id(campaign_id, number))
            try:
                if not progress.complete:
                    chunks = self._chunks(campaign, progress)
                    batches = await self._dispatcher.submit(_header(campaign), chunks, recipients)
            except DomainError as error:
                if error.reason != "CAMPAIGN_CANCELLED":
                    raise
                await self._cancel_rest(campaign)
        await self._database.run_transaction(lambda c: _finish(c, campaign, batches))

    async def _chunks(self, campaign: Campaign, progress: SubmissionProgress) -> AsyncIterator[Chunk]:
        key = campaign.tenant_id, campaign.campaign_id, campaign.enqueue_number
        index, after = progress.next_index, progress.last_phone
        while True:
            # A connection per chunk: a stream that the dispatcher's backlog delays must not keep one as well.
            async with self._database.connect() as connection:
                phones, values = await read_chunk(connection, *key, after, self._chunk_size)
            if not phones:
                return
            yield Chunk(index, phones, values)
            index, after = index + len(phones), phones[-1]

    async def _cancel_rest(self, campaign: Campaign) -> None:
        """The dispatcher takes no more of a cancelled campaign and reports what it has: the rest is ours to cancel."""
        progress = await self._dispatcher.submission(submission_id(campaign.campaign_id, campaign.enqueue_number))
        after = progress.last_phone

        async def body(connection: AsyncConnection) -> int:
            key, now = (campaign.tenant_id, campaign.campaign_id), await read_instant(connection)
            reached, cancelled = await cancel_queued(connection, *key, after, CANCEL_ROWS, now)
            if cancelled:
                await move_counters(connection, *key, Counters(queued=-cancelled, cancelled=cancelled), now)
            return reached

        while (reached := await self._database.run_transaction(body)) > 0:
            after = reached


async def take_snapshot(connection: AsyncConnection, tenant_id: str, campaign_id: UUID) -> None:
    """Copy the audience into recipients, or make failed recipients queued again; once per enqueue.

    The credits were reserved for the audience counted at the enqueue, so that is how many may be sent to. When more
    have come since, those who joined the audience last are not among them, and the event says how many.
    """
    locked = await lock_campaign(connection, tenant_id, campaign_id)
    if locked is None or locked.campaign.snapshot_at is not None or locked.campaign.reservation_id is None:
        return
    reservation = await lock_reservation(connection, tenant_id, locked.campaign.reservation_id)
    assert reservation is not None, "a campaign under way has confirmed one"  # noqa: S101
    if locked.campaign.enqueue_number > 1:
        detail = await _requeue(connection, locked, reservation.units)
    else:
        detail = await _copy_audience(connection, locked, reservation.units)
    await append_event(connection, locked, "SNAPSHOT_TAKEN", detail)
    await change_campaign(connection, locked, snapshot_at=locked.now)


async def _copy_audience(connection: AsyncConnection, locked: LockedCampaign, units: int) -> str:
    campaign, now = locked
    key, audience = (campaign.tenant_id, campaign.campaign_id), campaign.content.audience
    names = Template.parse(campaign.content.text).variable_names
    taken = await insert_snapshot(connection, *key, audience, campaign.enqueue_number, names, now)
    removed = 0
    if taken > units:
        removed = await remove_newest(connection, *key, audience, taken - units)
    total = taken - removed
    await set_counters(connection, *key, Counters(total=total, queued=total), now)
    joined_late = f", {removed} who joined the audience after the enqueue left out" if removed else ""
    return f"{total} recipients{joined_late}"


async def _requeue(connection: AsyncConnection, locked: LockedCampaign, units: int) -> str:
    campaign, now = locked
    key = campaign.tenant_id, campaign.campaign_id
    transitions = await requeue_failed(connection, *key, campaign.enqueue_number, units, now)
    # What the provider accepted stays counted as accepted, whatever becomes of the recipient now.
    accepted = sum(item.recipients for item in transitions if item.before & Fact.ACCEPTED)
    await move_counters(connection, *key, movement(transitions).plus(Counters(accepted=accepted)), now)
    return f"{sum(item.recipients for item in transitions)} failed recipients queued again"


async def _finish(connection: AsyncConnection, submitted: Campaign, batches: int) -> None:
    key = submitted.tenant_id, submitted.campaign_id
    locked = await lock_campaign(connection, *key)
    if locked is None or locked.campaign.enqueue_number != submitted.enqueue_number:
        return
    if locked.campaign.submitted_at is None:
        detail = f"{batches} batches" if batches else "nothing left to submit"
        await append_event(connection, locked, "SUBMITTED", detail)
        await change_campaign(connection, locked, submitted_at=locked.now)
        await ask_for_task(connection, TaskKind.COMPLETE, *key, locked.now)


def _header(campaign: Campaign) -> dispatch_pb2.SubmissionHeader:
    content = campaign.content
    return dispatch_pb2.SubmissionHeader(
        submission_id=str(submission_id(campaign.campaign_id, campaign.enqueue_number)),
        tenant_id=campaign.tenant_id,
        campaign_id=str(campaign.campaign_id),
        enqueue_number=campaign.enqueue_number,
        reservation_id=str(campaign.reservation_id),
        text=content.text,
        variable_names=Template.parse(content.text).variable_names,
        sender=content.sender,
        priority=dispatch_pb2.Priority.ValueType(int(content.priority)),
        traceparent=campaign.traceparent,
    )
