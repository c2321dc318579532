"""Credits of single messages to the ledger: captured or given back."""

from __future__ import annotations

from opentelemetry import trace

from bulksms_dispatcher.domain.outbox import OutboxEntry, OutboxKind
from bulksms_dispatcher.domain.protocol import BatchState
from bulksms_dispatcher.metrics import Metrics
from bulksms_dispatcher.peers.ledger import LedgerPeer
from bulksms_dispatcher.workers.publisher import Publisher
from servicekit.database import Database
from servicekit.errors import DomainError
from servicekit.ids import derived_id
from servicekit.telemetry import context_from_traceparent

__all__ = ["CreditPublisher"]

_tracer = trace.get_tracer("bulksms.dispatcher.credit_publisher")


class CreditPublisher(Publisher):
    """The credit of a single message is captured when it was accepted; then its reservation is closed."""

    kind = OutboxKind.MESSAGE_CREDIT
    name = "bulksms.dispatcher.credit_publisher"

    def __init__(self, database: Database, ledger: LedgerPeer, metrics: Metrics, worker: str) -> None:
        super().__init__(database, metrics, worker)
        self._ledger = ledger

    async def deliver(self, entries: list[OutboxEntry]) -> None:
        """One after the other."""
        for entry in entries:
            await self._deliver(entry)

    async def _deliver(self, entry: OutboxEntry) -> None:
        context = context_from_traceparent(entry.traceparent)
        with _tracer.start_as_current_span("close message reservation", context=context):
            try:
                if entry.accepted:
                    await self._ledger.capture(entry)
                if entry.released:
                    await self._ledger.release(entry)
                await self._ledger.close(
                    derived_id(entry.batch_id, "close", entry.epoch),
                    entry.tenant_id,
                    entry.reservation_id,
                    # Accepted by an earlier attempt, it was captured for that one.
                    expected_captured=1 if entry.state is BatchState.ACCEPTED else entry.accepted,
                )
            except DomainError as error:
                await self.acknowledgements.failed([entry], error)
            else:
                await self.acknowledgements.acknowledged([entry])
