"""What operators are paged for: the queue's depth, the age of what waits, the outbox."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from sqlalchemy import text

from bulksms_dispatcher.metrics import Metrics
from bulksms_dispatcher.settings import Settings
from bulksms_dispatcher.workers.queue_watch import QueueWatch
from devstack.eventually import eventually
from servicekit.database import Database

from .dispatcher_support import ACCOUNT, Dispatcher, Peers, Provider, header, phones, serving, submit


async def gauges(database: Database) -> dict[str, Any]:
    """Name, with the state where there is one, to value."""
    reader = InMemoryMetricReader()
    meters = MeterProvider([reader])
    await QueueWatch(database, Metrics(meters), ACCOUNT).look_once()
    data = reader.get_metrics_data()
    meters.shutdown()
    assert data is not None
    return {
        " ".join([metric.name, *map(str, (point.attributes or {}).values())]): point.value
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
        for point in metric.data.data_points
    }


async def test_the_queue_is_seen_as_metrics(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers, database: Database
) -> None:
    simulator.script("accept-then-reset")
    await submit(dispatcher, phones(10, first=447_700_900_000))
    await eventually(lambda: peers.campaign.outcomes == {"AMBIGUOUS": 10})
    head = header()
    await dispatcher.pause(head)
    await submit(dispatcher, phones(25), head)
    async with (
        database.begin() as connection
    ):  # one that was to be reported two hours ago and is not due before tomorrow
        await connection.execute(
            text("""
                INSERT INTO outbox (kind, batch_id, tenant_id, epoch, state, next_attempt_at, created_at)
                SELECT 1, batch_id, tenant_id, 99, 6, now() + interval '1 day', now() - interval '2 hours'
                FROM batches LIMIT 1
            """)
        )

    async def seen_pending() -> dict[str, Any] | None:
        seen = await gauges(database)
        return seen if seen["dispatcher.outbox.pending"] == 1 else None

    seen = await eventually(seen_pending)
    assert seen["dispatcher.queue.batches READY"] == 3
    assert seen["dispatcher.queue.batches AMBIGUOUS"] == 1
    assert seen["dispatcher.queue.batches LEASED"] == 0  # a state that empties is said to be empty
    assert seen["dispatcher.queue.oldest_ready"] == 0  # paused ones may not be sent
    assert 7200 <= seen["dispatcher.outbox.oldest"] < 7500


async def test_the_age_of_what_waits_is_that_of_the_batch_longest_due(
    configure: Callable[..., Settings], database: Database
) -> None:
    async with serving(configure()) as dispatcher:
        head = header()
        await dispatcher.pause(head)
        await submit(dispatcher, phones(25), head)
    async with database.begin() as connection:  # nobody is left to send what may be sent again
        await connection.execute(text("UPDATE campaigns SET paused = false"))
        await connection.execute(text("UPDATE batches SET not_before = not_before - number * interval '1 hour'"))
    assert 7200 <= (await gauges(database))["dispatcher.queue.oldest_ready"] < 7500
