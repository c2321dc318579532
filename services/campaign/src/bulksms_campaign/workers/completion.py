"""Completion: campaigns of which every recipient is final end, and their reservations are closed."""

from __future__ import annotations

from functools import partial
from uuid import UUID

from opentelemetry import trace
from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.campaigns import UNDER_WAY, Campaign, CampaignState
from bulksms_campaign.domain.counters import Counters
from bulksms_campaign.storage.campaigns import change_campaign, lock_campaign_by_id, read_settled_ids
from bulksms_campaign.storage.counters import lock_counters
from bulksms_campaign.storage.events import append_event
from bulksms_campaign.storage.tasks import TaskKind, ask_for_task
from bulksms_campaign.use_cases.signals import Bells
from servicekit import logs
from servicekit.database import Database
from servicekit.telemetry import context_from_traceparent

AT_ONCE = 100

_log = logs.get_logger("bulksms_campaign.completion")


class Completion:
    """Looks for campaigns under way that are submitted and settled."""

    def __init__(self, database: Database, bells: Bells, tracer: trace.Tracer | None = None) -> None:
        self._database = database
        self._bells = bells
        self._tracer = tracer or trace.get_tracer("bulksms_campaign.completion")

    async def complete_all(self) -> bool:
        """End what can end; True when there may be more."""
        async with self._database.connect() as connection:
            candidates = await read_settled_ids(connection, AT_ONCE)
        for campaign_id in candidates:
            ended = await self._database.run_transaction(partial(complete, campaign_id=campaign_id))
            if ended is not None:
                self._note(ended)
        return len(candidates) == AT_ONCE

    def _note(self, campaign: Campaign) -> None:
        self._bells.settle.ring()
        _log.info("campaign ended", campaign_id=str(campaign.campaign_id), state=campaign.state.name)
        context = context_from_traceparent(campaign.traceparent)
        with self._tracer.start_as_current_span("campaign.complete", context=context) as span:
            span.set_attributes(
                {"bulksms.campaign_id": str(campaign.campaign_id), "bulksms.state": campaign.state.name}
            )


async def complete(connection: AsyncConnection, campaign_id: UUID) -> Campaign | None:
    """End one campaign if, seen under its lock, it still is to end; the close follows as a task."""
    campaign = await lock_campaign_by_id(connection, campaign_id)
    if campaign is None or campaign.state not in UNDER_WAY or campaign.submitted_at is None:
        return None
    counters = await lock_counters(connection, campaign_id)
    if not counters.settled:
        return None
    state = final_state(campaign.state, counters)
    detail = (
        f"{counters.sent} sent, {counters.failed} failed, {counters.unconfirmed} unconfirmed, "
        f"{counters.cancelled} cancelled of {counters.total}"
    )
    await append_event(connection, campaign_id, state.name, detail)
    if campaign.reservation_id is not None:
        await ask_for_task(connection, TaskKind.SETTLE, campaign.reservation_id, campaign.tenant_id)
    return await change_campaign(connection, campaign_id, state=state, ended_at=func.clock_timestamp())


def final_state(state: CampaignState, counters: Counters) -> CampaignState:
    """How a settled campaign ends."""
    if state is CampaignState.CANCELLING:
        return CampaignState.CANCELLED
    return CampaignState.SENT if counters.accepted else CampaignState.FAILED
