"""The ledger as this service sees it: reserve credits, close reservations, ask for the balance."""

from __future__ import annotations

from datetime import timedelta
from typing import NamedTuple
from uuid import UUID

from bulksms.ledger.v1.ledger_pb2 import (
    RESERVATION_STATE_CLOSED,
    SUBSCRIPTION_STATUS_ACTIVE,
    Account,
    CloseRequest,
    GetAccountRequest,
    GetReservationRequest,
    Reservation,
    ReserveRequest,
)
from bulksms.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from servicekit.errors import Category, DomainError, unavailable
from servicekit.grpc.client import open_channel
from servicekit.grpc.errors import domain_errors
from servicekit.ids import derived_id

_NAMESPACE = UUID("a3a0c1de-0f6b-4c6e-9f0e-6c1f5a3d2b10")
LEDGER_UNAVAILABLE = "LEDGER_UNAVAILABLE"
"""Reason of the error that our caller gets when the ledger did not decide."""

# All calls carry a derived request id, so that repeating any of them is harmless.
_IDEMPOTENT = ("bulksms.ledger.v1.LedgerService",)


class ClosedReservation(NamedTuple):
    """Credits of a reservation that has ended: what went back, and what attempts may still turn out to have spent."""

    released: int
    authorized: int


class LedgerPeer:
    """Calls to the ledger; errors are `DomainError`s with the ledger's own reasons."""

    def __init__(self, address: str, *, timeout: timedelta) -> None:
        self._channel = open_channel(address, default_timeout=timeout, idempotent_methods=_IDEMPOTENT)
        self._ledger = LedgerServiceStub(self._channel)

    async def close(self) -> None:
        """Let go of the channel."""
        await self._channel.close(1.0)

    async def reserve(
        self, tenant_id: str, reservation_id: UUID, units: int, campaign_id: UUID, enqueue_number: int
    ) -> None:
        """Reserve credits. The reservation's id is the operation's too: a repeat gets the first decision again."""
        request = ReserveRequest(
            request_id=str(derived_id(_NAMESPACE, "reserve", reservation_id)),
            tenant_id=tenant_id,
            reservation_id=str(reservation_id),
            units=units,
            campaign_id=str(campaign_id),
            enqueue_number=enqueue_number,
        )
        with domain_errors("the ledger"):
            await self._ledger.Reserve(request)

    async def close_reservation(
        self, tenant_id: str, reservation_id: UUID, captured: int, attempt: int
    ) -> ClosedReservation:
        """End a reservation; what may have been sent keeps its credits until that is known.

        The ledger stores what it refuses and repeats that for the same request id, so that every attempt has its own.
        """
        request = CloseRequest(
            request_id=str(derived_id(_NAMESPACE, "close", reservation_id, captured, attempt)),
            tenant_id=tenant_id,
            reservation_id=str(reservation_id),
            expected_captured=captured,
        )
        with domain_errors("the ledger"):
            response = await self._ledger.Close(request)
        return _closed(response.reservation)

    async def closed_reservation(self, tenant_id: str, reservation_id: UUID) -> ClosedReservation | None:
        """The reservation, if it has ended."""
        request = GetReservationRequest(tenant_id=tenant_id, reservation_id=str(reservation_id))
        with domain_errors("the ledger"):
            response = await self._ledger.GetReservation(request)
        found = response.reservation
        return _closed(found) if found.state == RESERVATION_STATE_CLOSED else None

    async def account(self, tenant_id: str) -> Account:
        """The tenant's account with subscription and balance."""
        with domain_errors("the ledger"):
            response = await self._ledger.GetAccount(GetAccountRequest(tenant_id=tenant_id))
        return response.account


def _closed(reservation: Reservation) -> ClosedReservation:
    return ClosedReservation(reservation.released, reservation.authorized)


def is_decision(error: DomainError) -> bool:
    """Did the ledger decide, as opposed to not being reached or being too busy?

    Only then is it known that nothing was reserved.
    """
    return error.category not in _UNDECIDED and not error.reason.startswith("PEER_")


def ledger_unavailable(error: DomainError) -> DomainError:
    """The error our caller gets when the ledger did not decide."""
    return unavailable(
        LEDGER_UNAVAILABLE,
        "The ledger did not answer, the credits may be reserved or not: try again with the same request id.",
        retry_after=error.retry_after or timedelta(seconds=1),
        cause=error.reason,
    )


def subscription_is_active(account: Account, now_seconds: float) -> bool:
    """May the tenant send now?"""
    subscription = account.subscription
    if subscription.status != SUBSCRIPTION_STATUS_ACTIVE:
        return False
    return not subscription.HasField("active_until") or subscription.active_until.seconds > now_seconds


_UNDECIDED = frozenset(
    {
        Category.UNAVAILABLE,
        Category.OVERLOADED,
        Category.DEADLINE_EXCEEDED,
        Category.CANCELLED,
        Category.CONFLICT,
        Category.INTERNAL,
        Category.UNIMPLEMENTED,
    }
)
