"""Results to the campaign service: what became of each recipient of a batch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from opentelemetry import trace
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms.campaign.v1 import results_pb2
from bulksms.campaign.v1.results_pb2_grpc import ResultServiceStub
from bulksms.types.v1 import types_pb2
from bulksms_dispatcher.domain.recipients import unpack, unpack_ids
from bulksms_dispatcher.domain.results import OPERATOR, RecipientOutcome, Resolved, decode_groups, named, resolve
from bulksms_dispatcher.metrics import Metrics
from bulksms_dispatcher.storage import outbox
from bulksms_dispatcher.storage.outbox import OutboxEntry, OutboxKind
from bulksms_dispatcher.workers.outbox import CALL_TIMEOUT_SECONDS, HIDE, Publisher
from servicekit.database import Database
from servicekit.errors import DomainError
from servicekit.grpc.errors import domain_errors
from servicekit.telemetry import context_from_traceparent

__all__ = ["ResultPublisher"]

# Each holds a batch's numbers and ids, up to half a megabyte.
_RESULTS_AT_ONCE = 4

_REASONS = {
    name.removeprefix("OUTCOME_REASON_"): types_pb2.OutcomeReason.ValueType(number)
    for name, number in types_pb2.OutcomeReason.items()
}

_tracer = trace.get_tracer("bulksms.dispatcher")


class ResultPublisher(Publisher):
    """Reports to the campaign service what became of batches, in any order: it folds."""

    kind = OutboxKind.CAMPAIGN
    name = "bulksms.dispatcher.result_publisher"

    def __init__(self, database: Database, campaign: ResultServiceStub, metrics: Metrics, worker: str) -> None:
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
                with domain_errors("the campaign service"):
                    await self._campaign.RecordBatchResult(_result_request(entry), timeout=CALL_TIMEOUT_SECONDS)
            except DomainError as error:
                await self.acknowledgements.failed([entry], error)
                return False
        return True


def _result_request(entry: OutboxEntry) -> results_pb2.RecordBatchResultRequest:
    phones = unpack(entry.packed or b"").phones
    stored = decode_groups(entry.groups or b"\x90")
    groups = named(stored) if entry.part else resolve(stored, len(phones))
    return results_pb2.RecordBatchResultRequest(
        tenant_id=entry.tenant_id,
        campaign_id=str(entry.campaign_id),
        enqueue_number=entry.enqueue_number,
        batch_id=str(entry.batch_id),
        epoch=entry.epoch,
        bulk_id=entry.bulk_id,
        traceparent=entry.traceparent,
        first_phone=entry.first_phone,
        last_phone=entry.last_phone,
        groups=[
            _outcome_group(group, phones, entry.message_ids)
            for group in groups
            if group.outcome is not RecipientOutcome.DEFERRED
        ],
    )


def _outcome_group(group: Resolved, phones: Sequence[int], message_ids: bytes | None) -> results_pb2.OutcomeGroup:
    everyone = len(group.positions) == len(phones)
    # What only an operator confirmed has no ids.
    has_ids = group.outcome is RecipientOutcome.ACCEPTED and group.reason != OPERATOR
    return results_pb2.OutcomeGroup(
        outcome=results_pb2.RecipientOutcome.ValueType(group.outcome),
        reason=_REASONS.get(group.reason, types_pb2.OUTCOME_REASON_UNSPECIFIED),
        description=group.description,
        phones=phones if everyone else [phones[position] for position in group.positions],
        provider_message_ids=unpack_ids(message_ids or b"") if has_ids else (),
    )
