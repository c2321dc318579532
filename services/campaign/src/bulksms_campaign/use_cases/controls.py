"""Controls: pausing, resuming and cancelling; the dispatcher is told by a task, until it has acknowledged."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import func
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.campaigns import Campaign, CampaignState, Step
from bulksms_campaign.storage.campaigns import change_campaign
from bulksms_campaign.storage.events import append_event
from bulksms_campaign.storage.requests import MutationKey, claim_request, find_answer
from bulksms_campaign.storage.tasks import TaskKind, ask_for_task, withdraw_task
from bulksms_campaign.use_cases.drafts import locked
from bulksms_campaign.use_cases.signals import Bells
from servicekit.database import Database


class Controls:
    """The state changes once and for all in one transaction; what follows from it is repeated until it is done."""

    def __init__(self, database: Database, bells: Bells) -> None:
        self._database = database
        self._bells = bells

    async def pause(self, key: MutationKey, campaign_id: UUID) -> Campaign:
        """SENDING → PAUSED."""
        return await self._change(key, campaign_id, Step.PAUSE, CampaignState.PAUSED, "PAUSED", "")

    async def resume(self, key: MutationKey, campaign_id: UUID) -> Campaign:
        """PAUSED → SENDING."""
        return await self._change(key, campaign_id, Step.RESUME, CampaignState.SENDING, "RESUMED", "")

    async def cancel(self, key: MutationKey, campaign_id: UUID, reason: str) -> Campaign:
        """To CANCELLING, or, when nothing was enqueued yet, to CANCELLED."""
        return await self._change(key, campaign_id, Step.CANCEL, CampaignState.CANCELLING, "CANCEL_REQUESTED", reason)

    async def _change(
        self, key: MutationKey, campaign_id: UUID, step: Step, state: CampaignState, event: str, detail: str
    ) -> Campaign:
        async def body(connection: AsyncConnection) -> Campaign:
            campaign = await locked(connection, key.tenant_id, campaign_id)
            if await find_answer(connection, key) is not None:
                return campaign
            campaign.require(step)
            await claim_request(connection, key, campaign_id)
            await append_event(connection, campaign_id, event, detail)
            if campaign.state in (CampaignState.DRAFT, CampaignState.SCHEDULED):
                await withdraw_task(connection, TaskKind.START_SCHEDULED, campaign_id)
                await append_event(connection, campaign_id, "CANCELLED", "nothing had been enqueued")
                return await change_campaign(
                    connection,
                    campaign_id,
                    state=CampaignState.CANCELLED,
                    scheduled_at=None,
                    ended_at=func.clock_timestamp(),
                )
            await ask_for_task(connection, TaskKind.CONTROL, campaign_id, key.tenant_id)
            return await change_campaign(connection, campaign_id, state=state)

        changed = await self._database.run_transaction(body)
        self._bells.control.ring()
        self._bells.launch.ring()
        return changed
