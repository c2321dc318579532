"""Awaited reports: which messages have none, and what the provider says reported to whoever keeps their status."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from bulksms.campaign.v1 import results_pb2
from bulksms.campaign.v1.results_pb2_grpc import ResultServiceStub
from bulksms_dispatcher.domain.messages import DeliveryEvidence, MessageStatus
from bulksms_dispatcher.domain.report_refreshes import AwaitedMessage, DueRefresh
from bulksms_dispatcher.providers.lookup import DeliveryStatus, LookupResult
from bulksms_dispatcher.storage import messages
from servicekit.database import Database
from servicekit.grpc.errors import domain_errors

__all__ = ["AwaitedReports", "evidence_of"]

_CALL_TIMEOUT_SECONDS = 10.0
_STATUS_OF = {
    DeliveryStatus.DELIVERED: MessageStatus.DELIVERED,
    DeliveryStatus.FAILED: MessageStatus.FAILED,
    DeliveryStatus.EXPIRED: MessageStatus.FAILED,
}


class AwaitedReports:
    """Recipients are the campaign service's, single messages our own."""

    def __init__(self, database: Database, campaign: ResultServiceStub) -> None:
        self._database = database
        self._campaign = campaign

    async def list_awaited(self, due: DueRefresh, limit: int) -> list[AwaitedMessage]:
        """The next messages of the batch that are accepted and have no final report, in phone order."""
        if due.is_single_message:
            async with self._database.connect() as connection:
                message = await messages.find(connection, due.tenant_id, due.submission_id)
            if message is None or message.status is not MessageStatus.SENT or message.phone <= due.after_phone:
                return []
            return [AwaitedMessage(message.phone, message.provider_message_id)]
        request = results_pb2.ListAwaitedReportsRequest(
            tenant_id=due.tenant_id,
            campaign_id=str(due.campaign_id),
            enqueue_number=due.enqueue_number,
            after_phone=max(due.after_phone, due.first_phone - 1),
            last_phone=due.last_phone,
            page_size=limit,
        )
        with domain_errors("the campaign service"):
            response = await self._campaign.ListAwaitedReports(request, timeout=_CALL_TIMEOUT_SECONDS)
        return [AwaitedMessage(*pair) for pair in zip(response.phones, response.provider_message_ids, strict=True)]

    async def record(self, due: DueRefresh, results: Mapping[str, LookupResult]) -> int:
        """Report what is final of them; how many that were."""
        final = {message_id: result for message_id, result in results.items() if result.status.is_final}
        if not final:
            return 0
        if due.is_single_message:
            evidence = [evidence_of(message_id, result) for message_id, result in final.items()]
            async with self._database.begin() as connection:
                await messages.record_reports(connection, evidence)
        else:
            await self.record_in_campaign(due.tenant_id, final)
        return len(final)

    async def record_in_campaign(self, tenant_id: str, results: Mapping[str, LookupResult]) -> bool:
        """Report to the campaign service; True when it knows every one of them as a message of this tenant."""
        request = results_pb2.RecordDeliveryReportsRequest(tenant_id=tenant_id)
        now = datetime.now(UTC)
        for message_id, result in results.items():
            report = request.reports.add(
                provider_message_id=message_id,
                status=results_pb2.DeliveryStatus.ValueType(result.status),
                raw_status=result.raw_status,
                description=result.description,
            )
            report.received_at.FromDatetime(now)
        with domain_errors("the campaign service"):
            response = await self._campaign.RecordDeliveryReports(request, timeout=_CALL_TIMEOUT_SECONDS)
        return not response.unknown_indexes


def evidence_of(message_id: str, result: LookupResult) -> DeliveryEvidence:
    """As a delivery report of a single message."""
    status = _STATUS_OF.get(result.status, MessageStatus.SENT)
    return DeliveryEvidence(message_id, status, result.raw_status, result.description)
