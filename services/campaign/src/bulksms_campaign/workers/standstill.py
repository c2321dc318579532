"""Standstill: what holds a campaign is asked for again and again while it is under way."""

from __future__ import annotations

from datetime import timedelta

from bulksms_campaign.domain.campaigns import UNDER_WAY, Campaign
from bulksms_campaign.domain.holds import Hold, HoldReason
from bulksms_campaign.peers.dispatcher import DispatcherPeer
from bulksms_campaign.storage.campaign_holds import delete_hold, read_hold
from bulksms_campaign.storage.campaigns import read_campaign
from bulksms_campaign.storage.tasks import Task
from bulksms_campaign.use_cases.holds import record_hold
from servicekit.clock import Clock
from servicekit.database import Database
from servicekit.errors import DomainError

LOOK_EVERY = timedelta(seconds=3)


class Standstill:
    """Work of TaskKind.WATCH_HOLD; the subject is a campaign, from its enqueue to its end.

    So whoever reads a status asks no other service, and the history tells what held it when nobody looked.
    """

    def __init__(self, database: Database, dispatcher: DispatcherPeer, clock: Clock) -> None:
        self._database = database
        self._dispatcher = dispatcher
        self._clock = clock

    async def work(self, task: Task) -> timedelta | None:
        """Look once, and again in a while."""
        async with self._database.connect() as connection:
            campaign = await read_campaign(connection, task.tenant_id, task.subject)
            stored = await read_hold(connection, task.tenant_id, task.subject)
        if campaign is None or campaign.state not in UNDER_WAY:
            await self._database.run_transaction(lambda c: delete_hold(c, task.tenant_id, task.subject))
            return None
        hold = await self._find(campaign)
        if hold is not None or stored is not None:
            await self._database.run_transaction(lambda c: record_hold(c, task.tenant_id, task.subject, hold))
        return LOOK_EVERY

    async def _find(self, campaign: Campaign) -> Hold | None:
        """What the dispatcher knows of comes first: it is what somebody could end."""
        try:
            hold = await self._dispatcher.hold(campaign.tenant_id, campaign.campaign_id, self._clock.now())
        except DomainError as error:
            if not error.retryable:
                raise
            return Hold(reason=HoldReason.DISPATCHER_UNAVAILABLE, since=self._clock.now())
        enqueue = campaign.enqueue
        if hold is None and enqueue is not None and enqueue.submitted_at is None:
            return Hold(reason=HoldReason.LAUNCHING, since=enqueue.enqueued_at)
        return hold
