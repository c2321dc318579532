"""The campaign service and the ledger, standing in: they take results, reports and credits, and keep nothing."""
# ruff: noqa: N802, ARG002 - names and parameters are those of the generated base classes

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import uvloop

from bulksms.campaign.v1 import results_pb2, results_pb2_grpc
from bulksms.ledger.v1 import ledger_pb2, ledger_pb2_grpc
from servicekit.settings import ServiceSettings, load

_OPTIONS = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 64 << 20)]


class Campaign(results_pb2_grpc.ResultServiceServicer):
    """Knows everything at once."""

    async def RecordBatchResult(self, request: Any, context: Any) -> Any:
        return results_pb2.RecordBatchResultResponse(changed=1)

    async def RecordDeliveryReports(self, request: Any, context: Any) -> Any:
        return results_pb2.RecordDeliveryReportsResponse(changed=len(request.reports))


class Ledger(ledger_pb2_grpc.LedgerServiceServicer):
    """Reserves, authorizes and captures everything."""

    async def Reserve(self, request: Any, context: Any) -> Any:
        return ledger_pb2.ReserveResponse()

    async def BatchAuthorize(self, request: Any, context: Any) -> Any:
        results = [
            ledger_pb2.AuthorizationResult(attempt_id=one.attempt_id, authorized=ledger_pb2.Authorized())
            for one in request.authorizations
        ]
        return ledger_pb2.BatchAuthorizeResponse(results=results)

    async def BatchVoid(self, request: Any, context: Any) -> Any:
        results = [
            ledger_pb2.VoidResult(attempt_id=one.attempt_id, voided=ledger_pb2.Voided()) for one in request.voids
        ]
        return ledger_pb2.BatchVoidResponse(results=results)

    async def Capture(self, request: Any, context: Any) -> Any:
        return ledger_pb2.CaptureResponse()

    async def Close(self, request: Any, context: Any) -> Any:
        return ledger_pb2.CloseResponse()

    async def BatchCapture(self, request: Any, context: Any) -> Any:
        results = [
            ledger_pb2.CaptureResult(request_id=capture.request_id, captured=ledger_pb2.Captured())
            for capture in request.captures
        ]
        return ledger_pb2.BatchCaptureResponse(results=results)


async def _serve() -> None:
    server = grpc.aio.server(options=_OPTIONS)
    results_pb2_grpc.add_ResultServiceServicer_to_server(Campaign(), server)  # type: ignore[abstract] # the rest is not called
    ledger_pb2_grpc.add_LedgerServiceServicer_to_server(Ledger(), server)  # type: ignore[abstract]
    server.add_insecure_port(str(load(ServiceSettings).grpc_listen))
    await server.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve())
