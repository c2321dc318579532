"""Suppression: the dispatcher is told of opt-outs and opt-ins, so that they hold for what is queued already."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from bulksms_campaign.peers.dispatcher import DispatcherPeer
from bulksms_campaign.storage.suppressions import forget_wishes, read_wishes
from bulksms_campaign.storage.tasks import Task
from servicekit.database import Database

AT_ONCE = 1000


class Suppression:
    """Work of TaskKind.SUPPRESS; one task per tenant, so that a number's wishes arrive in their order."""

    def __init__(self, database: Database, dispatcher: DispatcherPeer) -> None:
        self._database = database
        self._dispatcher = dispatcher

    async def work(self, task: Task) -> timedelta | None:
        """Tell the dispatcher all wishes of a tenant."""
        tenant_id = task.tenant_id
        while True:
            async with self._database.connect() as connection:
                wishes = await read_wishes(connection, tenant_id, AT_ONCE)
            if not wishes:
                return None
            for suppressed, tell in ((True, self._dispatcher.suppress), (False, self._dispatcher.unsuppress)):
                chosen = [wish for wish in wishes if wish.suppressed is suppressed]
                if chosen:
                    await tell(tenant_id, [wish.phone for wish in chosen], [wish.wish_id for wish in chosen])
            await self._database.run_transaction(partial(forget_wishes, tenant_id=tenant_id, wishes=wishes))
