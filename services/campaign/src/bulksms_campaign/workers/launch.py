"""Launch: take the snapshot, then hand it to the dispatcher; killed anywhere, it goes on where it was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

from opentelemetry import trace
from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms.dispatcher.v1 import dispatch_pb2
from bulksms_campaign.domain.campaigns import UNDER_WAY, Campaign
from bulksms_campaign.domain.counters import Counters, movement
from bulksms_campaign.peers.dispatcher import Chunk, DispatcherPeer, SubmissionProgress, submission_id
from bulksms_campaign.storage.campaigns import change_campaign, lock_campaign_by_id, read_campaign_by_id
from bulksms_campaign.storage.counters import move_counters, set_counters
from bulksms_campaign.storage.events import append_event
from bulksms_campaign.storage.recipients import (
    cancel_queued,
    count_enqueued,
    insert_snapshot,
    leave_out_newest,
    read_chunk,
    requeue_failed,
)
from bulksms_campaign.storage.reservations import lock_reservation
from bulksms_campaign.storage.tasks import Task
from bulksms_campaign.use_cases.signals import Bells
from servicekit import logs
from servicekit.database import Database
from servicekit.errors import DomainError
from servicekit.telemetry import context_from_traceparent
from smstext.template import Template

CANCEL_ROWS = 20_000
"""Recipients cancelled in one transaction."""

_log = logs.get_logger("bulksms_campaign.launch")


class Launch:
    """Work of TaskKind.LAUNCH; the subject is a campaign."""

    def __init__(
        self,
        database: Database,
        dispatcher: DispatcherPeer,
        bells: Bells,
        *,
        chunk_size: int,
        tracer: trace.Tracer | None = None,
    ) -> None:
        self._database = database
        self._dispatcher = dispatcher
        self._bells = bells
        self._chunk_size = chunk_size
        self._tracer = tracer or trace.get_tracer("bulksms_campaign.launch")

    async def work(self, task: Task) -> timedelta | None:
        """Do what is left of the launch."""
        async with self._database.connect() as connection:
            campaign = await read_campaign_by_id(connection, task.subject)
        if campaign is None or campaign.state not in UNDER_WAY or campaign.submitted_at is not None:
            return None
        context = context_from_traceparent(campaign.traceparent)
        with self._tracer.start_as_current_span("campaign.launch", context=context) as span:
            span.set_attributes({"bulksms.campaign_id": str(task.subject), "bulksms.tenant_id": campaign.tenant_id})
            if campaign.snapshot_at is None:
                with self._tracer.start_as_current_span("campaign.snapshot"):
                    await self._database.run_transaction(lambda c: take_snapshot(c, task.subject))
            await self._submit(campaign)
        self._bells.complete.ring()
        return None

    async def _submit(self, campaign: Campaign) -> None:
        campaign_id, number = campaign.campaign_id, campaign.enqueue_number
        async with self._database.connect() as connection:
            recipients = await count_enqueued(connection, campaign_id, number)
        batches = 0
        if recipients:
            progress = await self._dispatcher.submission(submission_id(campaign_id, number))
            try:
                if not progress.complete:
                    chunks = self._chunks(campaign_id, number, progress)
                    batches = await self._dispatcher.submit(_header(campaign), chunks, recipients)
            except DomainError as error:
                if error.reason != "CAMPAIGN_CANCELLED":
                    raise
                await self._cancel_rest(campaign)
        await self._database.run_transaction(lambda c: _finish(c, campaign_id, number, batches))

    async def _chunks(
        self, campaign_id: UUID, enqueue_number: int, progress: SubmissionProgress
    ) -> AsyncIterator[Chunk]:
        index, after = progress.next_index, progress.last_phone
        while True:
            # A connection per chunk: a stream held up by the dispatcher's backlog must not hold one as well.
            async with self._database.connect() as connection:
                phones, values = await read_chunk(connection, campaign_id, enqueue_number, after, self._chunk_size)
            if not phones:
                return
            yield Chunk(index, phones, values)
            index, after = index + len(phones), phones[-1]

    async def _cancel_rest(self, campaign: Campaign) -> None:
        """The dispatcher takes no more of a cancelled campaign and reports what it has: the rest is ours to cancel."""
        progress = await self._dispatcher.submission(submission_id(campaign.campaign_id, campaign.enqueue_number))
        after = progress.last_phone

        async def body(connection: AsyncConnection) -> int:
            reached, cancelled = await cancel_queued(connection, campaign.campaign_id, after, CANCEL_ROWS)
            if cancelled:
                moved = Counters(queued=-cancelled, cancelled=cancelled)
                await move_counters(connection, campaign.campaign_id, moved)
            return reached

        while (reached := await self._database.run_transaction(body)) > 0:
            after = reached


async def take_snapshot(connection: AsyncConnection, campaign_id: UUID) -> None:
    """Copy the audience into recipients, or make failed recipients queued again; once per enqueue.

    The credits were reserved for the audience counted at the enqueue, so that is how many may be sent to. When more
    have come since, those who joined the audience last are left out and the event says how many.
    """
    campaign = await lock_campaign_by_id(connection, campaign_id)
    if campaign is None or campaign.snapshot_at is not None or campaign.reservation_id is None:
        return
    reservation = await lock_reservation(connection, campaign.reservation_id)
    assert reservation is not None, "a campaign under way has adopted one"  # noqa: S101
    if campaign.enqueue_number > 1:
        detail = await _requeue(connection, campaign, reservation.units)
    else:
        detail = await _copy_audience(connection, campaign, reservation.units)
    await append_event(connection, campaign_id, "SNAPSHOT_TAKEN", detail)
    await change_campaign(connection, campaign_id, snapshot_at=func.clock_timestamp())


async def _copy_audience(connection: AsyncConnection, campaign: Campaign, units: int) -> str:
    campaign_id, tenant_id, audience = campaign.campaign_id, campaign.tenant_id, campaign.content.audience
    names = Template.parse(campaign.content.text).variable_names
    taken = await insert_snapshot(connection, campaign_id, tenant_id, audience, campaign.enqueue_number, names)
    left_out = 0
    if taken > units:
        left_out = await leave_out_newest(connection, campaign_id, tenant_id, audience, taken - units)
    total = taken - left_out
    await set_counters(connection, campaign_id, Counters(total=total, queued=total))
    joined_late = f", {left_out} who joined the audience after the enqueue left out" if left_out else ""
    return f"{total} recipients{joined_late}"


async def _requeue(connection: AsyncConnection, campaign: Campaign, units: int) -> str:
    transitions = await requeue_failed(
        connection, campaign.campaign_id, campaign.tenant_id, campaign.enqueue_number, units
    )
    # What the provider accepted stays counted as accepted, whatever becomes of the recipient now.
    accepted = sum(item.recipients for item in transitions if item.before & 1)
    moved = movement(transitions).plus(Counters(accepted=accepted))
    await move_counters(connection, campaign.campaign_id, moved)
    return f"{sum(item.recipients for item in transitions)} failed recipients queued again"


async def _finish(connection: AsyncConnection, campaign_id: UUID, enqueue_number: int, batches: int) -> None:
    campaign = await lock_campaign_by_id(connection, campaign_id)
    if campaign is None or campaign.submitted_at is not None or campaign.enqueue_number != enqueue_number:
        return
    detail = f"{batches} batches" if batches else "nothing left to submit"
    await append_event(connection, campaign_id, "SUBMITTED", detail)
    await change_campaign(connection, campaign_id, submitted_at=func.clock_timestamp())


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
