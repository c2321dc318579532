"""Calls to the ledger: credits reserved, captured, and given back with their reservation."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from bulksms.ledger.v1 import ledger_pb2
from bulksms.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from bulksms_dispatcher.domain.batches import capture_id_of
from bulksms_dispatcher.domain.outbox import OutboxEntry
from servicekit.grpc.errors import domain_errors

__all__ = ["LedgerPeer"]

_NAME = "the ledger"
_DELIVERY_TIMEOUT_SECONDS = 20.0
_CALL_TIMEOUT_SECONDS = 10.0
_NO_RESULT = "NO_RESULT"


class LedgerPeer:
    """All calls may be repeated: the ledger knows each by its request id. They raise DomainError."""

    def __init__(self, stub: LedgerServiceStub) -> None:
        self._stub = stub

    async def reserve(
        self, request_id: UUID, tenant_id: str, reservation_id: UUID, *, units: int, campaign_id: UUID
    ) -> None:
        """Set credits aside."""
        request = ledger_pb2.ReserveRequest(
            request_id=str(request_id),
            tenant_id=tenant_id,
            reservation_id=str(reservation_id),
            units=units,
            campaign_id=str(campaign_id),
        )
        with domain_errors(_NAME):
            await self._stub.Reserve(request, timeout=_CALL_TIMEOUT_SECONDS)

    async def capture(self, entry: OutboxEntry) -> None:
        """Capture what one entry says was accepted."""
        with domain_errors(_NAME):
            await self._stub.Capture(_capture_request(entry), timeout=_DELIVERY_TIMEOUT_SECONDS)

    async def capture_all(self, entries: Sequence[OutboxEntry]) -> list[str]:
        """Capture what each entry says was accepted; entry by entry why not, "" where it was captured."""
        request = ledger_pb2.BatchCaptureRequest(captures=[_capture_request(entry) for entry in entries])
        with domain_errors(_NAME):
            response = await self._stub.BatchCapture(request, timeout=_DELIVERY_TIMEOUT_SECONDS)
        reasons = {result.request_id: _reason(result) for result in response.results}
        return [reasons.get(capture.request_id, _NO_RESULT) for capture in request.captures]

    async def close(self, request_id: UUID, tenant_id: str, reservation_id: UUID, *, expected_captured: int) -> None:
        """Give back what was not captured of a reservation."""
        request = ledger_pb2.CloseRequest(
            request_id=str(request_id),
            tenant_id=tenant_id,
            reservation_id=str(reservation_id),
            expected_captured=expected_captured,
        )
        with domain_errors(_NAME):
            await self._stub.Close(request, timeout=_CALL_TIMEOUT_SECONDS)


def _reason(result: ledger_pb2.CaptureResult) -> str:
    """Why a capture was refused, as errors have it; empty when it was carried out."""
    match result.WhichOneof("outcome"):
        case "captured":
            return ""
        case "refusal":
            return ledger_pb2.RefusalReason.Name(result.refusal.reason).removeprefix("REFUSAL_REASON_")
        case _:
            return _NO_RESULT


def _capture_request(entry: OutboxEntry) -> ledger_pb2.CaptureRequest:
    """The capture of an accepted batch; the same request id however often it is delivered."""
    return ledger_pb2.CaptureRequest(
        request_id=str(capture_id_of(entry.batch_id, entry.epoch, entry.part)),
        tenant_id=entry.tenant_id,
        reservation_id=str(entry.reservation_id),
        units=entry.accepted,
        evidence=ledger_pb2.CaptureEvidence(
            batch_id=str(entry.batch_id),
            epoch=entry.epoch,
            bulk_id=entry.bulk_id,
            accepted_count=entry.accepted,
            parts=entry.parts,
        ),
    )
