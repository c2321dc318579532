"""Reservation rows: every reservation of credits this service asks the ledger for, recorded before it is asked."""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Row, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.storage.tables import reservations


class ReservationState(IntEnum):
    """What this service knows of a reservation; the ledger knows the rest."""

    REQUESTED = 1  # the ledger may have been asked, its reply may be unknown
    CONFIRMED = 2  # granted, and the campaign sends on it
    ABANDONED = 3  # not used: to be closed, if it was granted at all
    REFUSED = 4  # the ledger said no; nothing is reserved
    CLOSED = 5  # the ledger has closed it


class Reservation(NamedTuple):
    """One reservation."""

    reservation_id: UUID
    campaign_id: UUID
    tenant_id: str
    enqueue_number: int
    attempt: int
    state: ReservationState
    units: int
    close_attempts: int


async def lock_reservation(connection: AsyncConnection, tenant_id: str, reservation_id: UUID) -> Reservation | None:
    """One reservation, locked."""
    query = select(reservations).where(
        reservations.c.tenant_id == tenant_id, reservations.c.reservation_id == reservation_id
    )
    row = (await connection.execute(query.with_for_update())).one_or_none()
    return None if row is None else _reservation(row)


async def change_reservation(
    connection: AsyncConnection, reservation: Reservation, now: datetime, **values: Any
) -> None:
    """Change a reservation that is locked by this transaction."""
    await connection.execute(
        update(reservations)
        .where(
            reservations.c.tenant_id == reservation.tenant_id,
            reservations.c.reservation_id == reservation.reservation_id,
        )
        .values(updated_at=now, **values)
    )


def _reservation(row: Row[Any]) -> Reservation:
    return Reservation(
        row.reservation_id,
        row.campaign_id,
        row.tenant_id,
        row.enqueue_number,
        row.attempt,
        ReservationState(row.state),
        row.units,
        row.close_attempts,
    )
