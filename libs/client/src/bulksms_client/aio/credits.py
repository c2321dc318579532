"""Credits: the tenant's account, subscription, grants, reservations and the entries that explain them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime

from bulksms.ledger.v1 import ledger_pb2 as pb
from bulksms_client.aio.resource import PAGE_SIZE, Resource
from bulksms_client.arguments import new_request_id, timestamp

__all__ = ["Credits"]


class Credits(Resource):
    """Calls of LedgerService. A mutation's `request_id` is its key for ever; it is made up when not given."""

    async def open_account(self, *, request_id: str | None = None, timeout: float | None = None) -> pb.Account:
        """Open the tenant's account; one that is open already stays as it is."""
        request = pb.CreateAccountRequest(request_id=new_request_id(request_id), tenant_id=self._tenant_id)
        return (await self._transport.unary(request, pb.CreateAccountResponse, timeout=timeout)).account

    async def account(self, *, timeout: float | None = None) -> pb.Account:
        """Read the account with its subscription and balance."""
        request = pb.GetAccountRequest(tenant_id=self._tenant_id)
        return (await self._transport.unary(request, pb.GetAccountResponse, timeout=timeout)).account

    async def accounts(self, *, page_size: int = PAGE_SIZE, timeout: float | None = None) -> AsyncIterator[pb.Account]:
        """Every tenant's account, in tenant order; pages by itself."""
        request = pb.ListAccountsRequest(page_size=page_size)
        async for page in self._pages(request, pb.ListAccountsResponse, timeout=timeout):
            for account in page.accounts:
                yield account

    async def set_subscription(
        self,
        status: pb.SubscriptionStatus.ValueType,
        *,
        reason: str,
        active_until: datetime | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> pb.Subscription:
        """Set whether the tenant may send, and until when (None: no end)."""
        request = pb.SetSubscriptionRequest(
            request_id=new_request_id(request_id),
            tenant_id=self._tenant_id,
            status=status,
            active_until=timestamp("active_until", active_until),
            reason=reason,
        )
        return (await self._transport.unary(request, pb.SetSubscriptionResponse, timeout=timeout)).subscription

    async def grant(
        self,
        units: int,
        *,
        source_ref: str = "",
        reason: str = "",
        expires_at: datetime | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> pb.GrantCreditsResponse:
        """Add credits; a `source_ref` (the purchase) can be granted only once."""
        request = pb.GrantCreditsRequest(
            request_id=new_request_id(request_id),
            tenant_id=self._tenant_id,
            units=units,
            source_ref=source_ref,
            expires_at=timestamp("expires_at", expires_at),
            reason=reason,
        )
        return await self._transport.unary(request, pb.GrantCreditsResponse, timeout=timeout)

    async def adjust(
        self, units: int, *, reason: str, request_id: str | None = None, timeout: float | None = None
    ) -> pb.AdjustCreditsResponse:
        """Correct the balance by hand, up or down."""
        request = pb.AdjustCreditsRequest(
            request_id=new_request_id(request_id), tenant_id=self._tenant_id, units=units, reason=reason
        )
        return await self._transport.unary(request, pb.AdjustCreditsResponse, timeout=timeout)

    async def balance(self, *, as_of: datetime | None = None, timeout: float | None = None) -> pb.Balance:
        """The balance now, or as of an instant."""
        request = pb.GetBalanceRequest(tenant_id=self._tenant_id, as_of=timestamp("as_of", as_of))
        return (await self._transport.unary(request, pb.GetBalanceResponse, timeout=timeout)).balance

    async def entries(
        self,
        *,
        campaign_id: str = "",
        reservation_id: str = "",
        page_size: int = PAGE_SIZE,
        timeout: float | None = None,
    ) -> AsyncIterator[pb.Entry]:
        """The account's entries (of a campaign or reservation) in version order; pages by itself."""
        request = pb.ListEntriesRequest(
            tenant_id=self._tenant_id, campaign_id=campaign_id, reservation_id=reservation_id, page_size=page_size
        )
        async for page in self._pages(request, pb.ListEntriesResponse, timeout=timeout):
            for entry in page.entries:
                yield entry

    async def reserve(
        self,
        units: int,
        *,
        reservation_id: str,
        campaign_id: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> pb.ReserveResponse:
        """Set credits aside under an id of the caller's."""
        request = pb.ReserveRequest(
            request_id=new_request_id(request_id),
            tenant_id=self._tenant_id,
            reservation_id=reservation_id,
            units=units,
            campaign_id=campaign_id,
        )
        return await self._transport.unary(request, pb.ReserveResponse, timeout=timeout)

    async def capture(
        self,
        reservation_id: str,
        units: int,
        *,
        evidence: pb.CaptureEvidence | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> pb.CaptureResponse:
        """Spend credits of a reservation."""
        request = pb.CaptureRequest(
            request_id=new_request_id(request_id),
            tenant_id=self._tenant_id,
            reservation_id=reservation_id,
            units=units,
            evidence=evidence,
        )
        return await self._transport.unary(request, pb.CaptureResponse, timeout=timeout)

    async def release(
        self,
        reservation_id: str,
        units: int,
        *,
        reason: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> pb.ReleaseResponse:
        """Give credits of a reservation back."""
        request = pb.ReleaseRequest(
            request_id=new_request_id(request_id),
            tenant_id=self._tenant_id,
            reservation_id=reservation_id,
            units=units,
            reason=reason,
        )
        return await self._transport.unary(request, pb.ReleaseResponse, timeout=timeout)

    async def close_reservation(
        self,
        reservation_id: str,
        *,
        expected_captured: int,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> pb.CloseResponse:
        """End a reservation; refused when the ledger counted other captures than `expected_captured`."""
        request = pb.CloseRequest(
            request_id=new_request_id(request_id),
            tenant_id=self._tenant_id,
            reservation_id=reservation_id,
            expected_captured=expected_captured,
        )
        return await self._transport.unary(request, pb.CloseResponse, timeout=timeout)

    async def refund(
        self,
        reservation_id: str,
        units: int,
        *,
        reason: str,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> pb.RefundResponse:
        """Give spent credits back."""
        request = pb.RefundRequest(
            request_id=new_request_id(request_id),
            tenant_id=self._tenant_id,
            reservation_id=reservation_id,
            units=units,
            reason=reason,
        )
        return await self._transport.unary(request, pb.RefundResponse, timeout=timeout)

    async def reservation(self, reservation_id: str, *, timeout: float | None = None) -> pb.Reservation:
        """Read one reservation."""
        request = pb.GetReservationRequest(tenant_id=self._tenant_id, reservation_id=reservation_id)
        return (await self._transport.unary(request, pb.GetReservationResponse, timeout=timeout)).reservation

    async def reservations(
        self,
        *,
        state: pb.ReservationState.ValueType = pb.RESERVATION_STATE_UNSPECIFIED,
        page_size: int = PAGE_SIZE,
        timeout: float | None = None,
    ) -> AsyncIterator[pb.Reservation]:
        """The account's reservations, newest first; pages by itself."""
        request = pb.ListReservationsRequest(tenant_id=self._tenant_id, state=state, page_size=page_size)
        async for page in self._pages(request, pb.ListReservationsResponse, timeout=timeout):
            for reservation in page.reservations:
                yield reservation

    async def verify(self, *, timeout: float | None = None) -> pb.VerifyAccountResponse:
        """Recompute the balances from the entries and compare."""
        request = pb.VerifyAccountRequest(tenant_id=self._tenant_id)
        return await self._transport.unary(request, pb.VerifyAccountResponse, timeout=timeout)
