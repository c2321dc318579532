"""Results to the campaign service: what became of each recipient of a batch."""

from __future__ import annotations

import asyncio

from opentelemetry import trace
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.outbox import OutboxEntry, OutboxKind
from bulksms_dispatcher.metrics import Metrics
from bulksms_dispatcher.peers.campaign import CampaignPeer
from bulksms_dispatcher.storage import outbox
from bulksms_dispatcher.workers.publisher import HIDE, Publisher
from servicekit.database import Database
from servicekit.errors import DomainError
from servicekit.telemetry import context_from_traceparent

__all__ = ["ResultPublisher"]

# Each has a batch's numbers and ids, up to half a megabyte.
_RESULTS_AT_ONCE = 4

_tracer = trace.get_tracer("bulksms.dispatcher.result_publisher")


class ResultPublisher(Publisher):
    """Reports to the campaign service what became of batches, in any order: it folds."""

    kind = OutboxKind.CAMPAIGN
    name = "bulksms.dispatcher.result_publisher"

    def __init__(self, database: Database, campaign: CampaignPeer, metrics: Metrics, worker: str) -> None:
        super().__init__(database, metrics, worker)
        self._campaign = campaign

    async def take(self, connection: AsyncConnection) -> list[OutboxEntry]:
        """With numbers and ids."""
        return await outbox.take_with_recipients(connection, [self.kind], _RESULTS_AT_ONCE, HIDE, self.worker)

    async def deliver(self, entries: list[OutboxEntry]) -> None:
        """All at once; one that fails must not cut the calls of the others short."""
        results = await asyncio.gather(*(self._deliver(entry) for entry in entries), return_exceptions=True)
        if acknowledged := [entry for entry, result in zip(entries, results, strict=True) if result is True]:
            await self.acknowledgements.acknowledged(acknowledged)
        for failure in results:
            if isinstance(failure, BaseException):
                raise failure

    async def _deliver(self, entry: OutboxEntry) -> bool:
        """True when it was acknowledged."""
        # In the campaign's trace, below the span of the attempt it reports.
        with _tracer.start_as_current_span(
            "report batch",
            context=context_from_traceparent(entry.traceparent),
            attributes={"bulksms.batch_id": str(entry.batch_id), "bulksms.state": entry.state.name},
        ):
            try:
                await self._campaign.record_batch_result(entry)
            except DomainError as error:
                await self.acknowledgements.failed([entry], error)
                return False
        return True
