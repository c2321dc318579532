"""The two services reports go to, as the forwarder sees them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Protocol

import grpc

from bulksms.campaign.v1 import results_pb2 as campaign
from bulksms.campaign.v1.results_pb2_grpc import ResultServiceStub
from bulksms.dispatcher.v1 import messages_pb2 as dispatcher
from bulksms.dispatcher.v1.messages_pb2_grpc import MessageServiceStub
from bulksms_dlr_gateway.domain.entries import Entry
from bulksms_dlr_gateway.domain.reports import Status
from servicekit.grpc.errors import domain_errors

__all__ = ["CampaignPeer", "DispatcherPeer", "Peer"]

_CAMPAIGN_STATUS = {
    Status.OTHER: campaign.DELIVERY_STATUS_UNSPECIFIED,
    Status.SENT: campaign.DELIVERY_STATUS_SENT,
    Status.DELIVERED: campaign.DELIVERY_STATUS_DELIVERED,
    Status.FAILED: campaign.DELIVERY_STATUS_FAILED,
    Status.EXPIRED: campaign.DELIVERY_STATUS_EXPIRED,
}
_MESSAGE_STATUS = {
    Status.OTHER: dispatcher.MESSAGE_STATUS_UNSPECIFIED,
    Status.SENT: dispatcher.MESSAGE_STATUS_SENT,
    Status.DELIVERED: dispatcher.MESSAGE_STATUS_DELIVERED,
    Status.FAILED: dispatcher.MESSAGE_STATUS_FAILED,
    Status.EXPIRED: dispatcher.MESSAGE_STATUS_FAILED,
}


class Peer(Protocol):
    """Somebody who may know the messages that reports are about."""

    name: str

    async def record(self, entries: Sequence[Entry]) -> frozenset[int]:
        """Have reports recorded; the positions of those it does not know. Raises DomainError; may be repeated."""
        ...


class CampaignPeer:
    """campaign's ResultService."""

    name = "campaign"

    def __init__(self, channel: grpc.aio.Channel, timeout: timedelta) -> None:
        self._stub = ResultServiceStub(channel)
        self._timeout = timeout.total_seconds()

    async def record(self, entries: Sequence[Entry]) -> frozenset[int]:
        """RecordDeliveryReports."""
        request = campaign.RecordDeliveryReportsRequest(reports=[_delivery_report(entry) for entry in entries])
        with domain_errors(self.name):
            response = await self._stub.RecordDeliveryReports(request, timeout=self._timeout)
        return frozenset(response.unknown_indexes)


class DispatcherPeer:
    """dispatcher's MessageService."""

    name = "dispatcher"

    def __init__(self, channel: grpc.aio.Channel, timeout: timedelta) -> None:
        self._stub = MessageServiceStub(channel)
        self._timeout = timeout.total_seconds()

    async def record(self, entries: Sequence[Entry]) -> frozenset[int]:
        """RecordDeliveryEvidence."""
        request = dispatcher.RecordDeliveryEvidenceRequest(reports=[_evidence_report(entry) for entry in entries])
        with domain_errors(self.name):
            response = await self._stub.RecordDeliveryEvidence(request, timeout=self._timeout)
        return frozenset(response.unknown_indexes)


def _delivery_report(entry: Entry) -> campaign.DeliveryReport:
    report = entry.report
    message = campaign.DeliveryReport(
        provider_message_id=report.provider_message_id,
        status=_CAMPAIGN_STATUS[report.status],
        raw_status=report.raw_status,
        description=report.description,
        error_code=report.error_code,
    )
    message.received_at.FromMicroseconds(entry.received_at)
    if report.updated_at is not None:
        message.provider_updated_at.FromMicroseconds(report.updated_at)
    return message


def _evidence_report(entry: Entry) -> dispatcher.EvidenceReport:
    report = entry.report
    message = dispatcher.EvidenceReport(
        provider_message_id=report.provider_message_id,
        status=_MESSAGE_STATUS[report.status],
        raw_status=report.raw_status,
        description=report.description,
    )
    message.received_at.FromMicroseconds(entry.received_at)
    return message
