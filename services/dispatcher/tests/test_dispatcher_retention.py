"""Final batches are deleted after their time; what is needed by anybody is not."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import text

from bulksms.dispatcher.v1 import queue_pb2
from bulksms_dispatcher.workers.retention import Retention
from devstack.eventually import eventually
from servicekit.database import Database

from .dispatcher_support import Dispatcher, Peers, Provider, chunks, header, phones, stream, submit


async def test_old_final_batches_go_and_a_repeated_submission_still_sends_nothing(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers, database: Database
) -> None:
    simulator.script("accept-then-reset")
    await submit(dispatcher, phones(10, first=447_700_900_000))
    await eventually(lambda: peers.campaign.outcomes == {"AMBIGUOUS": 10})
    head = header()
    await submit(dispatcher, phones(30), head)
    await eventually(lambda: peers.campaign.outcomes == {"AMBIGUOUS": 10, "ACCEPTED": 30})
    await eventually(lambda: _outbox_is_empty(dispatcher))
    retention = Retention(database, timedelta(days=90))
    await retention.delete_once()
    assert await dispatcher.states() == {"AMBIGUOUS": 1, "ACCEPTED": 4}, "with the probe that was cut off"
    async with database.begin() as connection:
        await connection.execute(text("UPDATE batches SET updated_at = updated_at - interval '91 days'"))
        await connection.execute(text("UPDATE batches SET updated_at = now() WHERE state = 6"))
    await retention.delete_once()
    assert await dispatcher.states() == {"AMBIGUOUS": 1}
    response = await dispatcher.dispatch.Submit(stream(head, chunks(phones(30)), 30))
    assert response.recipients == 30
    assert simulator.times_accepted() == {1: 40}


async def _outbox_is_empty(dispatcher: Dispatcher) -> bool:
    stats = await dispatcher.queue.GetQueueStats(queue_pb2.GetQueueStatsRequest())
    return stats.outbox_pending == 0
