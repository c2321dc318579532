"""Awaited reports: which messages have none, and what the provider says, reported to whoever keeps their status."""

from __future__ import annotations

from collections.abc import Mapping

from bulksms_dispatcher.domain.lookup_results import DeliveryStatus, LookupResult
from bulksms_dispatcher.domain.messages import DeliveryEvidence, MessageReference, MessageStatus
from bulksms_dispatcher.domain.report_refreshes import AwaitedMessage, DueRefresh
from bulksms_dispatcher.peers.campaign import CampaignPeer
from bulksms_dispatcher.storage import messages
from servicekit.database import Database

__all__ = ["AwaitedReports", "evidence_of"]

_STATUS_OF = {
    DeliveryStatus.DELIVERED: MessageStatus.DELIVERED,
    DeliveryStatus.FAILED: MessageStatus.FAILED,
    DeliveryStatus.EXPIRED: MessageStatus.FAILED,
}


class AwaitedReports:
    """Recipients are the campaign service's, single messages our own."""

    def __init__(self, database: Database, campaign: CampaignPeer) -> None:
        self._database = database
        self._campaign = campaign

    async def list_awaited(self, due: DueRefresh, limit: int) -> list[AwaitedMessage]:
        """The next messages of the batch that are accepted and have no final report, in phone order."""
        if not due.is_single_message:
            return await self._campaign.list_awaited_reports(due, limit)
        async with self._database.connect() as connection:
            message = await messages.find(connection, due.tenant_id, MessageReference(due.submission_id))
        if message is None or message.status is not MessageStatus.SENT or message.phone <= due.after_phone:
            return []
        return [AwaitedMessage(message.phone, message.provider_message_id)]

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
        return await self._campaign.record_delivery_reports(tenant_id, results)


def evidence_of(message_id: str, result: LookupResult) -> DeliveryEvidence:
    """As a delivery report of a single message."""
    status = _STATUS_OF.get(result.status, MessageStatus.SENT)
    return DeliveryEvidence(message_id, status, result.raw_status, result.description)
