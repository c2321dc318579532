"""Control: the dispatcher is asked to do what was decided of a campaign, until it has acknowledged."""

from __future__ import annotations

from datetime import timedelta

from bulksms_campaign.domain.campaigns import CampaignState
from bulksms_campaign.peers.dispatcher import DispatcherPeer
from bulksms_campaign.storage.campaigns import read_campaign
from bulksms_campaign.storage.tasks import Task
from servicekit.database import Database


class Control:
    """Work of TaskKind.CONTROL; the subject is a campaign.

    The task says nothing of what to ask for: the campaign's state at that moment does. The lease makes one worker at a
    time ask, so that an old request never arrives after a newer one.
    """

    def __init__(self, database: Database, dispatcher: DispatcherPeer) -> None:
        self._database = database
        self._dispatcher = dispatcher

    async def work(self, task: Task) -> timedelta | None:
        """Ask the dispatcher; the task repeats it after errors."""
        async with self._database.connect() as connection:
            campaign = await read_campaign(connection, task.tenant_id, task.subject)
        if campaign is None:
            return None
        arguments = campaign.tenant_id, campaign.campaign_id, campaign.revision
        if campaign.state is CampaignState.PAUSED:
            await self._dispatcher.pause(*arguments)
        elif campaign.state is CampaignState.SENDING:
            await self._dispatcher.resume(*arguments)
        elif campaign.state is CampaignState.CANCELLING:
            await self._dispatcher.cancel(*arguments)
        return None
