"""Calls to the campaign service: what became of batches, and the messages that await a delivery report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from bulksms.campaign.v1 import results_pb2
from bulksms.campaign.v1.results_pb2_grpc import ResultServiceStub
from bulksms_dispatcher.domain.lookup_results import LookupResult
from bulksms_dispatcher.domain.outbox import OutboxEntry
from bulksms_dispatcher.domain.recipients import unpack, unpack_ids
from bulksms_dispatcher.domain.report_refreshes import AwaitedMessage, DueRefresh
from bulksms_dispatcher.domain.results import OPERATOR, RecipientOutcome, Resolved, decode_groups, named, resolve
from bulksms_dispatcher.peers.reasons import reason_number
from servicekit.grpc.errors import domain_errors

__all__ = ["CampaignPeer"]

_NAME = "the campaign service"
_RESULT_TIMEOUT_SECONDS = 20.0
_REPORTS_TIMEOUT_SECONDS = 10.0


class CampaignPeer:
    """All calls may be repeated: the campaign service folds what it is sent. They raise DomainError."""

    def __init__(self, stub: ResultServiceStub) -> None:
        self._stub = stub

    async def record_batch_result(self, entry: OutboxEntry) -> None:
        """Deliver what became of each recipient of a batch."""
        with domain_errors(_NAME):
            await self._stub.RecordBatchResult(_result_request(entry), timeout=_RESULT_TIMEOUT_SECONDS)

    async def list_awaited_reports(self, due: DueRefresh, limit: int) -> list[AwaitedMessage]:
        """The next messages of a batch that are accepted and have no final report, in phone order."""
        request = results_pb2.ListAwaitedReportsRequest(
            tenant_id=due.tenant_id,
            campaign_id=str(due.campaign_id),
            enqueue_number=due.enqueue_number,
            after_phone=max(due.after_phone, due.first_phone - 1),
            last_phone=due.last_phone,
            page_size=limit,
        )
        with domain_errors(_NAME):
            response = await self._stub.ListAwaitedReports(request, timeout=_REPORTS_TIMEOUT_SECONDS)
        return [AwaitedMessage(*pair) for pair in zip(response.phones, response.provider_message_ids, strict=True)]

    async def record_delivery_reports(self, tenant_id: str, results: Mapping[str, LookupResult]) -> bool:
        """Deliver what the provider says of messages; True when every one is known as a message of this tenant."""
        request = results_pb2.RecordDeliveryReportsRequest(tenant_id=tenant_id)
        now = datetime.now(UTC)
        for provider_message_id, result in results.items():
            report = request.reports.add(
                provider_message_id=provider_message_id,
                status=results_pb2.DeliveryStatus.ValueType(result.status),
                raw_status=result.raw_status,
                description=result.description,
            )
            report.received_at.FromDatetime(now)
        with domain_errors(_NAME):
            response = await self._stub.RecordDeliveryReports(request, timeout=_REPORTS_TIMEOUT_SECONDS)
        return not response.unknown_indexes


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
        attempt_id=str(entry.attempt_id or ""),
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
        reason=reason_number(group.reason),
        description=group.description,
        phones=phones if everyone else [phones[position] for position in group.positions],
        provider_message_ids=unpack_ids(message_ids or b"") if has_ids else (),
    )
