"""Opt-out publisher: opt-outs and opt-ins are delivered to the dispatcher, so that they count for what is queued."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from bulksms_campaign.peers.dispatcher import DispatcherPeer
from bulksms_campaign.storage.opt_out_changes import delete_changes, read_changes
from bulksms_campaign.storage.tasks import Task
from servicekit.database import Database

AT_ONCE = 1000


class OptOutPublisher:
    """Work of TaskKind.DELIVER_OPT_OUTS; one task per tenant, so that a number's changes arrive in their order."""

    def __init__(self, database: Database, dispatcher: DispatcherPeer) -> None:
        self._database = database
        self._dispatcher = dispatcher

    async def work(self, task: Task) -> timedelta | None:
        """Deliver all changes of a tenant."""
        tenant_id = task.tenant_id
        while True:
            async with self._database.connect() as connection:
                changes = await read_changes(connection, tenant_id, AT_ONCE)
            if not changes:
                return None
            for opted_out, deliver in (
                (True, self._dispatcher.record_opt_outs),
                (False, self._dispatcher.remove_opt_outs),
            ):
                chosen = [change for change in changes if change.opted_out is opted_out]
                if chosen:
                    await deliver(tenant_id, [item.phone for item in chosen], [item.change_id for item in chosen])
            await self._database.run_transaction(partial(delete_changes, tenant_id=tenant_id, changes=changes))
