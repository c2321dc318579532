"""What the queue looks like now, as metrics: depth by state, the age of what waits, stops, the outbox."""

from __future__ import annotations

from bulksms_dispatcher.domain.protocol import LIVE
from bulksms_dispatcher.metrics import Metrics
from bulksms_dispatcher.storage import queue, stops
from servicekit.database import Database

__all__ = ["QueueWatch"]


class QueueWatch:
    """Every replica reports the same figures, as the queue is one: take their maximum, not their sum."""

    def __init__(self, database: Database, metrics: Metrics, traffic_account_id: str) -> None:
        self._database = database
        self._metrics = metrics
        self._account = traffic_account_id

    async def look_once(self) -> None:
        """Read the figures and set the gauges."""
        async with self._database.connect() as connection:
            lanes = await queue.read_depth(connection, tenant_id="")
            figures = await queue.read_figures(connection, tenant_id="", account=self._account)
            in_force = await stops.read_all(connection)
        for state in LIVE:
            batches = sum(lane.batches for lane in lanes if lane.state is state)
            self._metrics.queue_batches.set(batches, {"state": state.name})
        self._metrics.queue_oldest_ready.set(figures.oldest_ready_seconds or 0.0)
        self._metrics.stops.set(len(in_force))
        self._metrics.outbox_pending.set(figures.outbox_pending)
        self._metrics.outbox_oldest.set(figures.outbox_oldest_seconds)
