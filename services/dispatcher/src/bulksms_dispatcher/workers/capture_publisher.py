"""Credits to the ledger: captures of accepted batches, and the reservations of single messages."""

from __future__ import annotations

from itertools import groupby

from opentelemetry import trace

from bulksms.ledger.v1 import ledger_pb2
from bulksms.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from bulksms_dispatcher.domain.batches import capture_id_of
from bulksms_dispatcher.metrics import Metrics
from bulksms_dispatcher.storage.outbox import OutboxEntry, OutboxKind
from bulksms_dispatcher.workers.outbox import CALL_TIMEOUT_SECONDS, Publisher
from servicekit.database import Database
from servicekit.errors import DomainError
from servicekit.grpc.errors import domain_errors
from servicekit.ids import derived_id
from servicekit.telemetry import context_from_traceparent, link_from_traceparent

__all__ = ["CapturePublisher", "CreditPublisher"]

# Evidence that comes after the reservation was closed: its credits were given back, and repeating changes nothing.
_TOO_LATE = frozenset({"RESERVATION_STATE", "RESERVATION_EXCEEDED", "RESERVATION_NOT_FOUND"})

_NO_RESULT = "NO_RESULT"

_tracer = trace.get_tracer("bulksms.dispatcher")


class CapturePublisher(Publisher):
    """Reports to the ledger what was accepted: many captures a call, one call per trace."""

    kind = OutboxKind.CAPTURE
    name = "bulksms.dispatcher.capture_publisher"

    def __init__(self, database: Database, ledger: LedgerServiceStub, metrics: Metrics, worker: str) -> None:
        super().__init__(database, metrics, worker)
        self._ledger = ledger

    async def deliver(self, entries: list[OutboxEntry]) -> None:
        """Trace by trace."""
        for _, together in groupby(sorted(entries, key=_trace_of), key=_trace_of):
            await self._deliver(list(together))

    async def _deliver(self, entries: list[OutboxEntry]) -> None:
        request = ledger_pb2.BatchCaptureRequest(captures=[_capture_request(entry) for entry in entries])
        links = [link for entry in entries[1:16] if (link := link_from_traceparent(entry.traceparent))]
        with _tracer.start_as_current_span(
            "capture credits",
            context=context_from_traceparent(entries[0].traceparent),
            links=links,
            attributes={
                "bulksms.batches": len(entries),
                "bulksms.messages": sum(entry.accepted for entry in entries),
            },
        ):
            try:
                with domain_errors("the ledger"):
                    response = await self._ledger.BatchCapture(request, timeout=CALL_TIMEOUT_SECONDS)
            except DomainError as error:
                await self.acknowledgements.failed(entries, error)
            else:
                await self._take_results(entries, response)

    async def _take_results(self, entries: list[OutboxEntry], response: ledger_pb2.BatchCaptureResponse) -> None:
        reasons = {result.request_id: _refusal_reason(result) for result in response.results}
        captured = []
        for entry in entries:
            reason = reasons.get(str(capture_id_of(entry.batch_id, entry.epoch, entry.part)), _NO_RESULT)
            if reason in _TOO_LATE and entry.part:
                await self.acknowledgements.uncaptured([entry], reason)
            elif reason:
                await self.acknowledgements.refused([entry], reason)
            else:
                captured.append(entry)
        if captured:
            await self.acknowledgements.acknowledged(captured)


class CreditPublisher(Publisher):
    """The credit of single messages: captured when it was accepted, then its reservation is closed."""

    kind = OutboxKind.MESSAGE_CREDIT
    name = "bulksms.dispatcher.credit_publisher"

    def __init__(self, database: Database, ledger: LedgerServiceStub, metrics: Metrics, worker: str) -> None:
        super().__init__(database, metrics, worker)
        self._ledger = ledger

    async def deliver(self, entries: list[OutboxEntry]) -> None:
        """One after the other."""
        for entry in entries:
            await self._deliver(entry)

    async def _deliver(self, entry: OutboxEntry) -> None:
        close = ledger_pb2.CloseRequest(
            request_id=str(derived_id(entry.batch_id, "close", entry.epoch)),
            tenant_id=entry.tenant_id,
            reservation_id=str(entry.reservation_id),
            expected_captured=entry.accepted,
        )
        with _tracer.start_as_current_span(
            "close message reservation", context=context_from_traceparent(entry.traceparent)
        ):
            try:
                with domain_errors("the ledger"):
                    if entry.accepted:
                        await self._ledger.Capture(_capture_request(entry), timeout=CALL_TIMEOUT_SECONDS)
                    await self._ledger.Close(close, timeout=CALL_TIMEOUT_SECONDS)
            except DomainError as error:
                await self.acknowledgements.failed([entry], error)
            else:
                await self.acknowledgements.acknowledged([entry])


def _refusal_reason(result: ledger_pb2.CaptureResult) -> str:
    """Why a capture was refused, as errors have it; empty when it was carried out."""
    match result.WhichOneof("outcome"):
        case "captured":
            return ""
        case "refusal":
            return ledger_pb2.RefusalReason.Name(result.refusal.reason).removeprefix("REFUSAL_REASON_")
        case _:
            return _NO_RESULT


def _capture_request(entry: OutboxEntry) -> ledger_pb2.CaptureRequest:
    """The capture of an accepted batch; the same request id however often it is published."""
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


def _trace_of(entry: OutboxEntry) -> str:
    """The trace id: `00-<trace id>-<span id>-<flags>`."""
    return entry.traceparent[3:35]
