"""Schedule: campaigns whose time has come are enqueued as if a caller had done it."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from opentelemetry import trace
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.campaigns import Campaign, CampaignState, Step
from bulksms_campaign.domain.events import EventKind
from bulksms_campaign.domain.holds import Hold, HoldReason
from bulksms_campaign.peers.ledger import LEDGER_UNAVAILABLE
from bulksms_campaign.storage.campaign_holds import delete_hold
from bulksms_campaign.storage.campaigns import change_campaign, lock_campaign, read_campaign
from bulksms_campaign.storage.events import append_event
from bulksms_campaign.storage.requests import MutationKey
from bulksms_campaign.storage.tasks import Task
from bulksms_campaign.use_cases.enqueue import Enqueue
from bulksms_campaign.use_cases.holds import record_hold
from servicekit.clock import Clock
from servicekit.database import Database
from servicekit.errors import DomainError
from servicekit.ids import derived_id

_NAMESPACE = UUID("f0b7d6c1-2a54-4b0e-8f57-93c2f0a1de38")


class Schedule:
    """Work of TaskKind.START_SCHEDULED; the subject is a campaign, due at its `scheduled_at`."""

    def __init__(self, database: Database, enqueue: Enqueue, clock: Clock, tracer: trace.Tracer | None = None) -> None:
        self._database = database
        self._enqueue = enqueue
        self._clock = clock
        self._tracer = tracer or trace.get_tracer("bulksms.campaign.schedule")

    async def work(self, task: Task) -> timedelta | None:
        """Enqueue it. A refusal makes it a DRAFT again, with an event that says why; an outage is waited out."""
        async with self._database.connect() as connection:
            campaign = await read_campaign(connection, task.tenant_id, task.subject)
        if campaign is None or campaign.state is not CampaignState.SCHEDULED:
            return None
        request_id = derived_id(_NAMESPACE, campaign.campaign_id, campaign.revision)
        key = MutationKey.of(campaign.tenant_id, request_id, "EnqueueCampaign", campaign.campaign_id)
        with self._tracer.start_as_current_span("campaign.start_scheduled"):
            try:
                await self._enqueue.run(key, campaign.campaign_id, Step.ENQUEUE)
            except DomainError as error:
                if error.retryable:
                    await self._hold(task, error)
                    raise
                reason = error.reason
                await self._database.run_transaction(lambda c: _back_to_draft(c, campaign, reason))
        return None

    async def _hold(self, task: Task, error: DomainError) -> None:
        if error.reason == LEDGER_UNAVAILABLE:
            hold = Hold(reason=HoldReason.LEDGER_UNAVAILABLE, since=self._clock.now())
            await self._database.run_transaction(lambda c: record_hold(c, task.tenant_id, task.subject, hold))


async def _back_to_draft(connection: AsyncConnection, scheduled: Campaign, reason: str) -> None:
    locked = await lock_campaign(connection, scheduled.tenant_id, scheduled.campaign_id)
    if locked is None or (locked.campaign.state, locked.campaign.revision) != (scheduled.state, scheduled.revision):
        return
    await append_event(connection, locked, EventKind.ENQUEUE_REFUSED, f"{reason}; the schedule is taken back")
    await delete_hold(connection, scheduled.tenant_id, scheduled.campaign_id)
    await change_campaign(connection, locked, state=CampaignState.DRAFT, scheduled_at=None)
