"""Calls to the ledger: credits reserved, attempts authorized, credits captured, and given back."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from bulksms.ledger.v1 import ledger_pb2
from bulksms.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from bulksms_dispatcher.domain.authorizations import Authorization, AuthorizationRefusal, Void
from bulksms_dispatcher.domain.batches import capture_id_of, release_id_of
from bulksms_dispatcher.domain.index_ranges import IndexRange, to_ranges
from bulksms_dispatcher.domain.outbox import OutboxEntry
from bulksms_dispatcher.domain.recipients import unpack_positions
from bulksms_dispatcher.peers.gathered_calls import GatheredCalls
from servicekit.grpc.errors import domain_errors

__all__ = ["IDEMPOTENT_METHODS", "AttemptRef", "LedgerPeer"]

IDEMPOTENT_METHODS = [
    f"bulksms.ledger.v1.LedgerService/{method}"
    for method in ("Reserve", "BatchWithdraw", "BatchVoid", "Capture", "BatchCapture", "Release", "Close")
]
"""An authorization is asked for once: a repeat that is decided later would take positions for nobody."""

AttemptRef = tuple[str, UUID, UUID]
"""Tenant, reservation and attempt."""

_NAME = "the ledger"
_DELIVERY_TIMEOUT_SECONDS = 20.0
_CALL_TIMEOUT_SECONDS = 10.0
# A sender waits for at most one call under way and its own.
_AUTHORIZE_TIMEOUT_SECONDS = 5.0
_NO_RESULT = "NO_RESULT"


class LedgerPeer:
    """All calls but `authorize` may be repeated: the ledger knows what it has decided. They raise DomainError."""

    def __init__(self, stub: LedgerServiceStub) -> None:
        self._stub = stub
        self._authorizing = GatheredCalls(self._authorize_all, "authorize attempts")
        self._voiding = GatheredCalls(self._void_all, "void attempts")

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

    async def authorize(self, wanted: Authorization) -> AuthorizationRefusal | None:
        """None: the attempt may send, now and once. An error says nothing: the attempt must be void."""
        return await self._authorizing.ask(wanted.tenant_id, wanted)

    async def void(self, void: Void) -> str:
        """Take an authorization back; why not, or "" when it is void now, or was before."""
        return await self._voiding.ask(void.tenant_id, void)

    async def withdraw(self, attempts: Sequence[AttemptRef]) -> list[bool]:
        """Attempt by attempt whether it may have been sent; those that may not are refused for ever from now on."""
        request = ledger_pb2.BatchWithdrawRequest(
            attempts=[
                ledger_pb2.AttemptRef(
                    tenant_id=tenant_id, reservation_id=str(reservation_id), attempt_id=str(attempt_id)
                )
                for tenant_id, reservation_id, attempt_id in attempts
            ]
        )
        with domain_errors(_NAME):
            response = await self._stub.BatchWithdraw(request, timeout=_CALL_TIMEOUT_SECONDS)
        # Where there is no such reservation, nothing can ever have been authorized.
        return [result.WhichOneof("outcome") not in ("withdrawn", "refusal") for result in response.results]

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

    async def release(self, entry: OutboxEntry) -> None:
        """Give back the credits of those of whom nobody will learn whether they were sent."""
        request = ledger_pb2.ReleaseRequest(
            request_id=str(release_id_of(_attempt_of(entry))),
            tenant_id=entry.tenant_id,
            reservation_id=str(entry.reservation_id),
            units=entry.released,
            reason=entry.state.name,
            attempt_id=str(entry.attempt_id),
        )
        with domain_errors(_NAME):
            await self._stub.Release(request, timeout=_CALL_TIMEOUT_SECONDS)

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

    async def _authorize_all(self, wanted: Sequence[Authorization]) -> list[AuthorizationRefusal | None]:
        request = ledger_pb2.BatchAuthorizeRequest(authorizations=[_authorization(one) for one in wanted])
        with domain_errors(_NAME):
            response = await self._stub.BatchAuthorize(request, timeout=_AUTHORIZE_TIMEOUT_SECONDS)
        return [_refusal_of(result) for result in response.results]

    async def _void_all(self, voids: Sequence[Void]) -> list[str]:
        request = ledger_pb2.BatchVoidRequest(
            voids=[
                ledger_pb2.Void(
                    tenant_id=void.tenant_id,
                    reservation_id=str(void.reservation_id),
                    attempt_id=str(void.attempt_id),
                    positions=_positions(void.ranges),
                    units=void.units,
                )
                for void in voids
            ]
        )
        with domain_errors(_NAME):
            response = await self._stub.BatchVoid(request, timeout=_AUTHORIZE_TIMEOUT_SECONDS)
        return [
            "" if result.WhichOneof("outcome") == "voided" else _name(result.refusal) for result in response.results
        ]


def _reason(result: ledger_pb2.CaptureResult) -> str:
    """Why a capture was refused, as errors have it; empty when it was carried out."""
    match result.WhichOneof("outcome"):
        case "captured":
            return ""
        case "refusal":
            return _name(result.refusal)
        case _:
            return _NO_RESULT


def _capture_request(entry: OutboxEntry) -> ledger_pb2.CaptureRequest:
    """The capture of an accepted batch; the same request id however often it is delivered."""
    return ledger_pb2.CaptureRequest(
        request_id=str(capture_id_of(_attempt_of(entry), entry.part)),
        attempt_id=str(entry.attempt_id),
        positions=_positions(to_ranges(unpack_positions(entry.accepted_indexes))) if entry.accepted_indexes else (),
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


def _attempt_of(entry: OutboxEntry) -> UUID:
    if entry.attempt_id is None:
        raise ValueError("credits are captured and released for an attempt")
    return entry.attempt_id


def _authorization(wanted: Authorization) -> ledger_pb2.Authorization:
    return ledger_pb2.Authorization(
        tenant_id=wanted.tenant_id,
        reservation_id=str(wanted.reservation_id),
        attempt_id=str(wanted.attempt_id),
        campaign_id=str(wanted.campaign_id),
        enqueue_number=wanted.enqueue_number,
        snapshot_digest=wanted.snapshot_digest,
        positions=_positions(wanted.ranges),
        units=wanted.units,
    )


def _refusal_of(result: ledger_pb2.AuthorizationResult) -> AuthorizationRefusal | None:
    match result.WhichOneof("outcome"):
        case "authorized":
            return None
        case "refusal":
            refusal = result.refusal
            return AuthorizationRefusal(_name(refusal), _ranges(refusal.captured), _ranges(refusal.unresolved))
        case _:
            return AuthorizationRefusal(_NO_RESULT)


def _name(refusal: ledger_pb2.AuthorizationRefusal | ledger_pb2.CaptureRefusal) -> str:
    """Its reason as errors have it."""
    return ledger_pb2.RefusalReason.Name(refusal.reason).removeprefix("REFUSAL_REASON_")


def _positions(ranges: Sequence[IndexRange]) -> list[ledger_pb2.PositionRange]:
    return [ledger_pb2.PositionRange(first=first, last=last) for first, last in ranges]


def _ranges(positions: Sequence[ledger_pb2.PositionRange]) -> list[IndexRange]:
    return [(one.first, one.last) for one in positions]
