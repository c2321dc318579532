"""The ledger in the process of another service's tests: one account, its promises kept, its moods scripted."""
# ruff: noqa: N802, ARG002 - names and parameters are those of the generated base class

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from bulksms.ledger.v1 import ledger_pb2
from bulksms.ledger.v1.ledger_pb2_grpc import LedgerServiceServicer
from servicekit import errors
from servicekit.errors import DomainError

__all__ = ["LedgerStandIn"]

_OPEN, _CLOSED = ledger_pb2.RESERVATION_STATE_OPEN, ledger_pb2.RESERVATION_STATE_CLOSED


class LedgerStandIn(LedgerServiceServicer):
    """Decisions about reservations are stored by request id, refusals too; a capture counts once.

    Attempts are authorized, and credits captured, of reservations somebody else made: a dispatcher's tests know no
    campaign. A position is authorized once unless it is void, as in the ledger itself.
    """

    def __init__(self) -> None:
        self.available = 1_000_000
        self.active = True
        """Whether the account has an active subscription."""
        self.known = True
        """Whether there is an account."""
        self.capture_refusal: ledger_pb2.RefusalReason.ValueType | None = None
        """With what captures of a batch are refused."""
        self.before_response: Callable[[str], Awaitable[None]] | None = None
        """Awaited with the method's name before Reserve responds and before Close begins; may raise."""
        self.reservations: dict[str, ledger_pb2.Reservation] = {}
        self.decisions: dict[str, DomainError | None] = {}
        """By request id; None: carried out."""
        self.captures: dict[str, ledger_pb2.CaptureRequest] = {}
        """Those carried out, by request id."""
        self.releases: dict[str, ledger_pb2.ReleaseRequest] = {}
        """Those carried out, by request id."""
        self.captured_units: Counter[str] = Counter()
        """Credits captured, by reservation; a test may set them."""
        self.close_requests: dict[str, ledger_pb2.CloseRequest] = {}
        """The latest by reservation, whatever came of it."""
        self.reserve_calls = 0
        self.authorization_refusal: ledger_pb2.RefusalReason.ValueType | None = None
        """With what attempts are refused."""
        self.authorized: dict[str, ledger_pb2.Authorization] = {}
        """By attempt id, those that are not void."""
        self.ended: set[str] = set()
        """Attempts that are void or withdrawn."""
        self.taken: dict[tuple[str, str, int], str] = {}
        """By tenant, reservation and position: the attempt that may have sent to it."""
        self.reserve_requests: dict[str, ledger_pb2.ReserveRequest] = {}
        """The latest by reservation, whatever came of it."""

    @property
    def captured(self) -> int:
        """Credits captured in all."""
        return sum(capture.units for capture in self.captures.values())

    def open_reservations(self) -> list[ledger_pb2.Reservation]:
        """Those not closed yet."""
        return [one for one in self.reservations.values() if one.state == _OPEN]

    async def Reserve(self, request: ledger_pb2.ReserveRequest, context: Any) -> ledger_pb2.ReserveResponse:
        """Set credits aside."""
        self.reserve_calls += 1
        self.reserve_requests[request.reservation_id] = request
        if request.request_id not in self.decisions:
            self.decisions[request.request_id] = self._reserve(request)
        if self.before_response is not None:
            await self.before_response("Reserve")
        refusal = self.decisions[request.request_id]
        if refusal is not None:
            raise refusal
        return ledger_pb2.ReserveResponse(reservation=self.reservations[request.reservation_id])

    async def BatchAuthorize(
        self, request: ledger_pb2.BatchAuthorizeRequest, context: Any
    ) -> ledger_pb2.BatchAuthorizeResponse:
        """Allow attempts to send."""
        results = [self._authorize(wanted) for wanted in request.authorizations]
        if self.before_response is not None:
            await self.before_response("BatchAuthorize")
        return ledger_pb2.BatchAuthorizeResponse(results=results)

    async def BatchWithdraw(
        self, request: ledger_pb2.BatchWithdrawRequest, context: Any
    ) -> ledger_pb2.BatchWithdrawResponse:
        """Say which attempts may have been sent; the others never will."""
        if self.before_response is not None:
            await self.before_response("BatchWithdraw")
        results = []
        for attempt in request.attempts:
            result = ledger_pb2.WithdrawResult(attempt_id=attempt.attempt_id)
            if attempt.attempt_id in self.authorized:
                result.authorized.SetInParent()
            else:
                self.ended.add(attempt.attempt_id)
                result.withdrawn.SetInParent()
            results.append(result)
        return ledger_pb2.BatchWithdrawResponse(results=results)

    async def BatchVoid(self, request: ledger_pb2.BatchVoidRequest, context: Any) -> ledger_pb2.BatchVoidResponse:
        """Take authorizations back."""
        if self.before_response is not None:
            await self.before_response("BatchVoid")
        for void in request.voids:
            self._void(void)
        results = [
            ledger_pb2.VoidResult(attempt_id=void.attempt_id, voided=ledger_pb2.Voided()) for void in request.voids
        ]
        return ledger_pb2.BatchVoidResponse(results=results)

    async def Release(self, request: ledger_pb2.ReleaseRequest, context: Any) -> ledger_pb2.ReleaseResponse:
        """Give credits of an attempt back; its positions stay taken."""
        self.releases[request.request_id] = request
        return ledger_pb2.ReleaseResponse()

    async def Capture(self, request: ledger_pb2.CaptureRequest, context: Any) -> ledger_pb2.CaptureResponse:
        """Spend credits of a reservation."""
        self._capture(request)
        return ledger_pb2.CaptureResponse()

    async def BatchCapture(
        self, request: ledger_pb2.BatchCaptureRequest, context: Any
    ) -> ledger_pb2.BatchCaptureResponse:
        """Spend credits of many."""
        return ledger_pb2.BatchCaptureResponse(results=[self._result(capture) for capture in request.captures])

    async def Close(self, request: ledger_pb2.CloseRequest, context: Any) -> ledger_pb2.CloseResponse:
        """Give the rest back, if the caller has counted as many captured credits."""
        self.close_requests[request.reservation_id] = request
        if self.before_response is not None:
            await self.before_response("Close")
        reservation = self.reservations.get(request.reservation_id)
        if reservation is None:
            raise errors.not_found("RESERVATION_NOT_FOUND", "There is no such reservation.")
        if request.request_id not in self.decisions:
            self.decisions[request.request_id] = self._close(reservation, request.expected_captured)
        refusal = self.decisions[request.request_id]
        if refusal is not None:
            raise refusal
        return ledger_pb2.CloseResponse(reservation=reservation)

    async def GetReservation(self, request: Any, context: Any) -> ledger_pb2.GetReservationResponse:
        """One reservation."""
        return ledger_pb2.GetReservationResponse(reservation=self.reservations[request.reservation_id])

    async def GetAccount(self, request: Any, context: Any) -> ledger_pb2.GetAccountResponse:
        """The account."""
        if not self.known:
            raise errors.not_found("ACCOUNT_NOT_FOUND", "There is no account: open one.")
        status = ledger_pb2.SUBSCRIPTION_STATUS_ACTIVE if self.active else ledger_pb2.SUBSCRIPTION_STATUS_SUSPENDED
        return ledger_pb2.GetAccountResponse(
            account=ledger_pb2.Account(
                tenant_id=request.tenant_id,
                subscription=ledger_pb2.Subscription(status=status),
                balance=ledger_pb2.Balance(available=self.available),
            )
        )

    def _authorize(self, wanted: ledger_pb2.Authorization) -> ledger_pb2.AuthorizationResult:
        refusal = ledger_pb2.AuthorizationRefusal(message="refused")
        result = ledger_pb2.AuthorizationResult(attempt_id=wanted.attempt_id)
        places = [
            (wanted.tenant_id, wanted.reservation_id, position)
            for span in wanted.positions
            for position in range(span.first, span.last + 1)
        ]
        taken = [place for place in places if place in self.taken]
        if self.authorization_refusal is not None:
            refusal.reason = self.authorization_refusal
        elif wanted.attempt_id in self.ended:
            refusal.reason = ledger_pb2.REFUSAL_REASON_ATTEMPT_ENDED
        elif taken:
            refusal.reason = ledger_pb2.REFUSAL_REASON_POSITIONS_TAKEN
            captured = {capture.attempt_id for capture in self.captures.values()}
            for place in taken:
                side = refusal.captured if self.taken[place] in captured else refusal.unresolved
                side.add(first=place[2], last=place[2])
        else:
            self.authorized[wanted.attempt_id] = wanted
            self.taken |= dict.fromkeys(places, wanted.attempt_id)
            result.authorized.SetInParent()
            return result
        result.refusal.CopyFrom(refusal)
        return result

    def _void(self, void: ledger_pb2.Void) -> None:
        free = {position for span in void.positions for position in range(span.first, span.last + 1)}
        for place, attempt_id in list(self.taken.items()):
            if attempt_id == void.attempt_id and (not free or place[2] in free):
                del self.taken[place]
        if not free:
            self.authorized.pop(void.attempt_id, None)
            self.ended.add(void.attempt_id)

    def _reserve(self, request: ledger_pb2.ReserveRequest) -> DomainError | None:
        if not self.known:
            return errors.not_found("ACCOUNT_NOT_FOUND", "There is no account: open one.")
        if not self.active:
            return errors.forbidden("SUBSCRIPTION_INACTIVE", "No active subscription: set one.")
        if request.units > self.available:
            return errors.payment_required(
                "INSUFFICIENT_CREDITS", "Too few credits.", required=request.units, available=self.available
            )
        self.available -= request.units
        self.reservations[request.reservation_id] = ledger_pb2.Reservation(
            reservation_id=request.reservation_id,
            tenant_id=request.tenant_id,
            state=_OPEN,
            units=request.units,
            open=request.units,
        )
        return None

    def _capture(self, request: ledger_pb2.CaptureRequest) -> None:
        if request.request_id not in self.captures:
            self.captures[request.request_id] = request
            self.captured_units[request.reservation_id] += request.units

    def _result(self, request: ledger_pb2.CaptureRequest) -> ledger_pb2.CaptureResult:
        if self.capture_refusal is not None:
            refusal = ledger_pb2.CaptureRefusal(reason=self.capture_refusal, message="refused")
            return ledger_pb2.CaptureResult(request_id=request.request_id, refusal=refusal)
        self._capture(request)
        return ledger_pb2.CaptureResult(request_id=request.request_id, captured=ledger_pb2.Captured())

    def _close(self, reservation: ledger_pb2.Reservation, expected: int) -> DomainError | None:
        captured = self.captured_units[reservation.reservation_id]
        if captured != expected:
            return errors.wrong_state("CAPTURED_MISMATCH", "Differs.", expected=expected, captured=captured)
        if reservation.state != _CLOSED:
            reservation.state = _CLOSED
            reservation.captured, reservation.released, reservation.open = captured, reservation.units - captured, 0
            self.available += reservation.released
        return None
