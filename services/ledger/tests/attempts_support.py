"""Attempts as a dispatcher makes them: authorized, captured, void or withdrawn, in words of one line."""

from __future__ import annotations

from collections.abc import Sequence

import grpc

from bulksms.ledger.v1 import ledger_pb2 as pb
from bulksms.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from servicekit.errors import DomainError
from servicekit.grpc.errors import from_rpc_error

from .ledger_support import Ids, Tenant, refused

DIGEST = b"the snapshot"
CAMPAIGN = "campaign-1"

Ranges = Sequence[tuple[int, int]]
"""First and last positions."""


class Sender:
    """Sends for one reservation; answers are "" when it was done, the reason when it was refused."""

    def __init__(self, tenant: Tenant, reservation_id: str) -> None:
        self.stub: LedgerServiceStub = tenant.stub
        self.ids: Ids = tenant.ids
        self.tenant = tenant
        self.names = {"tenant_id": tenant.tenant_id, "reservation_id": reservation_id}
        self.reservation_id = reservation_id

    def asks(self, attempt_id: str, positions: Ranges, units: int = 0, **other: object) -> pb.Authorization:
        """What an attempt asks for: a credit a position, unless it is told otherwise."""
        fields = {
            **self.names,
            "campaign_id": CAMPAIGN,
            "enqueue_number": 1,
            "snapshot_digest": DIGEST,
            "positions": ranges(positions),
            "units": units or sum(last - first + 1 for first, last in positions),
            **other,
        }
        return pb.Authorization(attempt_id=attempt_id, **fields)  # type: ignore[arg-type]

    async def authorize(self, attempt_id: str, positions: Ranges, units: int = 0, **other: object) -> str:
        return reason(await self.authorized(attempt_id, positions, units, **other))

    async def authorized(
        self, attempt_id: str, positions: Ranges, units: int = 0, **other: object
    ) -> pb.AuthorizationResult:
        request = pb.BatchAuthorizeRequest(authorizations=[self.asks(attempt_id, positions, units, **other)])
        [result] = (await self.stub.BatchAuthorize(request)).results
        return result

    async def withdraw(self, attempt_id: str) -> str:
        """What is known of it, or why nothing is."""
        attempt = pb.AttemptRef(attempt_id=attempt_id, **self.names)
        [result] = (await self.stub.BatchWithdraw(pb.BatchWithdrawRequest(attempts=[attempt]))).results
        return reason(result) or str(result.WhichOneof("outcome"))

    async def void(self, attempt_id: str, positions: Ranges = (), units: int = 0) -> str:
        void = pb.Void(attempt_id=attempt_id, positions=ranges(positions), units=units, **self.names)
        [result] = (await self.stub.BatchVoid(pb.BatchVoidRequest(voids=[void]))).results
        return reason(result)

    def capturing(self, attempt_id: str, units: int, positions: Ranges = ()) -> pb.CaptureRequest:
        return pb.CaptureRequest(
            request_id=self.ids(), units=units, attempt_id=attempt_id, positions=ranges(positions), **self.names
        )

    async def capture(self, attempt_id: str, units: int, positions: Ranges = ()) -> str:
        request = self.capturing(attempt_id, units, positions)
        [result] = (await self.stub.BatchCapture(pb.BatchCaptureRequest(captures=[request]))).results
        return reason(result)

    async def release(self, attempt_id: str, units: int) -> str:
        request = pb.ReleaseRequest(request_id=self.ids(), attempt_id=attempt_id, units=units, **self.names)
        try:
            await self.stub.Release(request)
        except grpc.aio.AioRpcError as error:
            return from_rpc_error(error).reason
        return ""

    async def refusal_of(self, request: pb.CaptureRequest) -> DomainError:
        return await refused(self.stub.Capture(request))

    async def figures(self) -> tuple[int, int, int, int]:
        """Open, authorized, captured and released."""
        request = pb.GetReservationRequest(**self.names)
        found = (await self.stub.GetReservation(request)).reservation
        assert found.units == found.open + found.authorized + found.captured + found.released
        return found.open, found.authorized, found.captured, found.released


def ranges(positions: Ranges) -> list[pb.PositionRange]:
    return [pb.PositionRange(first=first, last=last) for first, last in positions]


def plain(positions: Sequence[pb.PositionRange]) -> list[tuple[int, int]]:
    return [(one.first, one.last) for one in positions]


def reason(
    result: pb.AuthorizationResult | pb.WithdrawResult | pb.VoidResult | pb.CaptureResult,
) -> str:
    """Why one of a batch was refused; empty when it was not."""
    if result.WhichOneof("outcome") != "refusal":
        return ""
    return pb.RefusalReason.Name(result.refusal.reason).removeprefix("REFUSAL_REASON_")


async def sender_of(tenant: Tenant, units: int, **other: int) -> Sender:
    """A sender with a reservation of so many credits."""
    reserved = await tenant.reserve(units, campaign_id=CAMPAIGN, enqueue_number=1, **other)  # type: ignore[arg-type]
    return Sender(tenant, reserved.reservation.reservation_id)
