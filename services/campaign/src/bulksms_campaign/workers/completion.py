"""Completion: a campaign ends when all that can be tried has been tried, and its reservation is closed."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from opentelemetry import trace
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.campaigns import UNDER_WAY, Campaign, CampaignState
from bulksms_campaign.domain.counters import Counters
from bulksms_campaign.domain.events import EventKind
from bulksms_campaign.storage.campaigns import change_campaign, lock_campaign
from bulksms_campaign.storage.counters import lock_counters
from bulksms_campaign.storage.events import append_event
from bulksms_campaign.storage.tasks import Task, TaskKind, ask_for_task
from bulksms_campaign.use_cases.signals import Signals
from servicekit import logs
from servicekit.database import Database
from servicekit.telemetry import context_from_traceparent

_log = logs.get_logger("bulksms.campaign.completion")


class Completion:
    """Work of TaskKind.COMPLETE; the subject is a campaign.

    It is asked for by whoever makes a campaign wholly submitted, and by whoever records that its last queued recipient
    was tried. What is ambiguous then keeps nobody waiting: resolved later, it moves the counters as late reports do.
    """

    def __init__(self, database: Database, signals: Signals, tracer: trace.Tracer | None = None) -> None:
        self._database = database
        self._signals = signals
        self._tracer = tracer or trace.get_tracer("bulksms.campaign.completion")

    async def work(self, task: Task) -> timedelta | None:
        """End the campaign, if it can end."""
        ended = await self._database.run_transaction(lambda c: complete(c, task.tenant_id, task.subject))
        if ended is not None:
            self._note(ended)
        return None

    def _note(self, campaign: Campaign) -> None:
        self._signals.close_reservation.notify()
        _log.info("campaign ended", campaign_id=str(campaign.campaign_id), state=campaign.state.name)
        assert campaign.enqueue is not None, "it was under way"  # noqa: S101
        context = context_from_traceparent(campaign.enqueue.traceparent)
        with self._tracer.start_as_current_span("campaign.complete", context=context) as span:
            span.set_attributes(
                {"bulksms.campaign_id": str(campaign.campaign_id), "bulksms.state": campaign.state.name}
            )


async def complete(connection: AsyncConnection, tenant_id: str, campaign_id: UUID) -> Campaign | None:
    """End one campaign if, seen under its lock, it is to end; the close follows as a task."""
    locked = await lock_campaign(connection, tenant_id, campaign_id)
    if locked is None or locked.campaign.state not in UNDER_WAY:
        return None
    campaign, now = locked
    if campaign.enqueue is None or campaign.enqueue.submitted_at is None:
        return None
    counters = await lock_counters(connection, tenant_id, campaign_id)
    if not counters.all_tried:
        return None
    state = final_state(campaign.state, counters)
    detail = (
        f"{counters.sent} sent, {counters.failed} failed, {counters.unconfirmed} unconfirmed, "
        f"{counters.cancelled} cancelled of {counters.total}"
    )
    await append_event(connection, locked, EventKind[state.name], detail)
    await ask_for_task(connection, TaskKind.CLOSE_RESERVATION, tenant_id, campaign.enqueue.reservation_id, now)
    return await change_campaign(connection, locked, state=state, ended_at=now)


def final_state(state: CampaignState, counters: Counters) -> CampaignState:
    """How a campaign ends of which nobody is queued: FAILED only when it is known that nothing was sent."""
    if state is CampaignState.CANCELLING:
        return CampaignState.CANCELLED
    return CampaignState.SENT if counters.accepted or counters.unconfirmed else CampaignState.FAILED
