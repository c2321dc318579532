"""Launch: take the snapshot, then hand it to the dispatcher; killed anywhere, it goes on where it was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

from opentelemetry import trace
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms.dispatcher.v1 import dispatch_pb2
from bulksms.types.v1 import types_pb2
from bulksms_campaign.domain.campaigns import UNDER_WAY, Campaign
from bulksms_campaign.domain.counters import Counters
from bulksms_campaign.domain.enqueues import Chunk, EnqueueKey, EnqueueRecord
from bulksms_campaign.domain.events import EventKind
from bulksms_campaign.peers.dispatcher import DispatcherPeer, submission_id
from bulksms_campaign.storage.campaigns import LockedCampaign, lock_campaign, read_campaign
from bulksms_campaign.storage.counters import move_counters
from bulksms_campaign.storage.enqueues import mark_snapshot, mark_submitted, read_enqueue
from bulksms_campaign.storage.events import append_event
from bulksms_campaign.storage.instants import read_instant
from bulksms_campaign.storage.recipients import cancel_queued, count_enqueued, read_chunk
from bulksms_campaign.storage.reservations import lock_reservation
from bulksms_campaign.storage.snapshots import copy_failed, insert_snapshot, read_digest, remove_newest
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
        if campaign is None or campaign.state not in UNDER_WAY or campaign.enqueue is None:
            return None
        enqueue = campaign.enqueue
        if enqueue.submitted_at is not None:
            return None
        context = context_from_traceparent(enqueue.traceparent)
        with self._tracer.start_as_current_span("campaign.launch", context=context) as span:
            span.set_attributes({"bulksms.campaign_id": str(task.subject), "bulksms.tenant_id": campaign.tenant_id})
            if enqueue.snapshot_at is None:
                with self._tracer.start_as_current_span("campaign.snapshot"):
                    await self._database.run_transaction(lambda c: take_snapshot(c, task.tenant_id, task.subject))
            await self._submit(campaign, enqueue.key)
        self._signals.complete.notify()
        return None

    async def _submit(self, campaign: Campaign, key: EnqueueKey) -> None:
        submission = submission_id(key.campaign_id, key.number)
        async with self._database.connect() as connection:
            # As the snapshot left it: whoever launches again says the same of it.
            enqueue = await read_enqueue(connection, key.tenant_id, key.campaign_id, key.number)
            assert enqueue is not None, "it was read before, and enqueues are not deleted"  # noqa: S101
            recipients = await count_enqueued(connection, key)
        batches = 0
        if recipients:
            progress = await self._dispatcher.submission(key.tenant_id, submission)
            try:
                if not progress.complete:
                    chunks = self._chunks(key, progress.last_phone)
                    batches = await self._dispatcher.submit(_header(campaign, enqueue), chunks, recipients)
            except DomainError as error:
                if error.reason != "CAMPAIGN_CANCELLED":
                    raise
                await self._cancel_rest(key)
        await self._database.run_transaction(lambda c: _finish(c, key, batches))

    async def _chunks(self, key: EnqueueKey, after: int) -> AsyncIterator[Chunk]:
        while True:
            # A connection per chunk: a stream that the dispatcher's backlog delays must not keep one as well.
            async with self._database.connect() as connection:
                chunk = await read_chunk(connection, key, after, self._chunk_size)
            if chunk is None:
                return
            yield chunk
            after = chunk.phones[-1]

    async def _cancel_rest(self, key: EnqueueKey) -> None:
        """The dispatcher takes no more of a cancelled campaign and reports what it has: the rest is ours to cancel."""
        submission = submission_id(key.campaign_id, key.number)
        progress = await self._dispatcher.submission(key.tenant_id, submission)
        after = progress.last_phone

        async def body(connection: AsyncConnection) -> int:
            now = await read_instant(connection)
            reached, cancelled = await cancel_queued(connection, key, after, CANCEL_ROWS, now)
            if cancelled:
                await move_counters(connection, key, Counters(queued=-cancelled, cancelled=cancelled), now)
            return reached

        while (reached := await self._database.run_transaction(body)) > 0:
            after = reached


async def take_snapshot(connection: AsyncConnection, tenant_id: str, campaign_id: UUID) -> None:
    """Copy the audience into recipients, or those that failed as recipients of a new enqueue; once per enqueue.

    The credits were reserved for the audience counted at the enqueue, so that is how many may be sent to. When more
    have come since, those who joined the audience last are not among them, and the event says how many.
    """
    locked = await lock_campaign(connection, tenant_id, campaign_id)
    enqueue = locked.campaign.enqueue if locked is not None else None
    if locked is None or enqueue is None or enqueue.snapshot_at is not None:
        return
    reservation = await lock_reservation(connection, tenant_id, enqueue.reservation_id)
    assert reservation is not None, "a campaign under way has confirmed one"  # noqa: S101
    if enqueue.key.number > 1:
        detail = await _copy_failed(connection, locked, enqueue.key, reservation.units)
    else:
        detail = await _copy_audience(connection, locked, enqueue.key, reservation.units)
    await append_event(connection, locked, EventKind.SNAPSHOT_TAKEN, detail)


async def _copy_audience(connection: AsyncConnection, locked: LockedCampaign, key: EnqueueKey, units: int) -> str:
    content, now = locked.campaign.content, locked.now
    names = Template.parse(content.text).variable_names
    taken = await insert_snapshot(connection, key, content.audience, names, now)
    removed = 0
    if taken > units:
        removed = await remove_newest(connection, key, content.audience, taken - units)
    await mark_snapshot(connection, key, taken - removed, await read_digest(connection, key), now)
    joined_late = f", {removed} who joined the audience after the enqueue left out" if removed else ""
    return f"{taken - removed} recipients{joined_late}"


async def _copy_failed(connection: AsyncConnection, locked: LockedCampaign, key: EnqueueKey, units: int) -> str:
    superseded = await copy_failed(connection, key, units, locked.now)
    # They count by their new enqueue from now on; what the provider accepted of the earlier ones stays with those.
    for earlier, number in superseded:
        await move_counters(connection, earlier, Counters(total=-number, failed=-number), locked.now)
    recipients = sum(number for _, number in superseded)
    await mark_snapshot(connection, key, recipients, await read_digest(connection, key), locked.now)
    return f"{recipients} failed recipients queued again"


async def _finish(connection: AsyncConnection, key: EnqueueKey, batches: int) -> None:
    locked = await lock_campaign(connection, key.tenant_id, key.campaign_id)
    enqueue = locked.campaign.enqueue if locked is not None else None
    if locked is None or enqueue is None or enqueue.key != key or enqueue.submitted_at is not None:
        return
    detail = f"{batches} batches" if batches else "nothing left to submit"
    await append_event(connection, locked, EventKind.SUBMITTED, detail)
    await mark_submitted(connection, key, locked.now)
    await ask_for_task(connection, TaskKind.COMPLETE, key.tenant_id, key.campaign_id, locked.now)


def _header(campaign: Campaign, enqueue: EnqueueRecord) -> dispatch_pb2.SubmissionHeader:
    content, key = campaign.content, enqueue.key
    assert enqueue.snapshot_digest is not None, "its snapshot was taken"  # noqa: S101
    header = dispatch_pb2.SubmissionHeader(
        submission_id=str(submission_id(key.campaign_id, key.number)),
        tenant_id=key.tenant_id,
        campaign_id=str(key.campaign_id),
        enqueue_number=key.number,
        reservation_id=str(enqueue.reservation_id),
        text=content.text,
        variable_names=Template.parse(content.text).variable_names,
        sender=content.sender,
        priority=types_pb2.Priority.ValueType(int(content.priority)),
        message_class=types_pb2.MessageClass.ValueType(int(content.message_class)),
        traceparent=enqueue.traceparent,
        snapshot_digest=enqueue.snapshot_digest,
    )
    if content.not_after is not None:
        header.not_after.FromDatetime(content.not_after)
    return header
