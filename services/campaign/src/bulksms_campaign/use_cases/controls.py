"""Controls: pausing, resuming and cancelling; a task has the dispatcher follow, until it has acknowledged."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.campaigns import Campaign, CampaignState, Step
from bulksms_campaign.domain.events import EventKind
from bulksms_campaign.storage.campaign_holds import delete_hold
from bulksms_campaign.storage.campaigns import change_campaign
from bulksms_campaign.storage.events import append_event
from bulksms_campaign.storage.requests import MutationKey, claim_request, find_result
from bulksms_campaign.storage.tasks import TaskKind, ask_for_task, withdraw_task
from bulksms_campaign.use_cases.drafts import lock
from bulksms_campaign.use_cases.signals import Signals
from servicekit.database import Database


class Controls:
    """The state changes once and for all in one transaction; what follows from it is repeated until it is done."""

    def __init__(self, database: Database, signals: Signals) -> None:
        self._database = database
        self._signals = signals

    async def pause(self, key: MutationKey, campaign_id: UUID) -> Campaign:
        """SENDING → PAUSED."""
        return await self._change(key, campaign_id, Step.PAUSE, CampaignState.PAUSED, EventKind.PAUSED, "")

    async def resume(self, key: MutationKey, campaign_id: UUID) -> Campaign:
        """PAUSED → SENDING."""
        return await self._change(key, campaign_id, Step.RESUME, CampaignState.SENDING, EventKind.RESUMED, "")

    async def cancel(self, key: MutationKey, campaign_id: UUID, reason: str) -> Campaign:
        """To CANCELLING, or, when nothing was enqueued yet, to CANCELLED."""
        return await self._change(
            key, campaign_id, Step.CANCEL, CampaignState.CANCELLING, EventKind.CANCEL_REQUESTED, reason
        )

    async def _change(
        self, key: MutationKey, campaign_id: UUID, step: Step, state: CampaignState, event: EventKind, detail: str
    ) -> Campaign:
        async def body(connection: AsyncConnection) -> Campaign:
            locked = await lock(connection, key.tenant_id, campaign_id)
            campaign, now = locked
            if await find_result(connection, key) is not None:
                return campaign
            campaign.require(step)
            await claim_request(connection, key, campaign_id, now)
            await append_event(connection, locked, event, detail)
            if campaign.state in (CampaignState.DRAFT, CampaignState.SCHEDULED):
                await withdraw_task(connection, TaskKind.START_SCHEDULED, key.tenant_id, campaign_id)
                await delete_hold(connection, key.tenant_id, campaign_id)
                await append_event(connection, locked, EventKind.CANCELLED, "nothing had been enqueued")
                return await change_campaign(
                    connection, locked, state=CampaignState.CANCELLED, scheduled_at=None, ended_at=now
                )
            await ask_for_task(connection, TaskKind.CONTROL, key.tenant_id, campaign_id, now)
            return await change_campaign(connection, locked, state=state)

        changed = await self._database.run_transaction(body)
        self._signals.control.notify()
        self._signals.launch.notify()
        return changed
