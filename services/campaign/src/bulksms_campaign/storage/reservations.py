"""Reservation rows: every hold of credits this service asks the ledger for, written down before it is asked."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Row, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.storage.tables import reservations


class ReservationState(IntEnum):
    """What this service knows of a hold; the ledger knows the rest."""

    INTENDED = 1  # the ledger may have been asked, its answer may be unknown
    ADOPTED = 2  # the campaign sends on it
    ABANDONED = 3  # not used: to be given back, if it was granted at all
    REFUSED = 4  # the ledger said no; nothing is held
    CLOSED = 5  # the ledger has closed it


class Reservation(NamedTuple):
    """One hold. `accepted_before` is the campaign's accepted counter when it was adopted."""

    reservation_id: UUID
    campaign_id: UUID
    tenant_id: str
    enqueue_number: int
    attempt: int
    state: ReservationState
    units: int
    accepted_before: int
    close_attempts: int


async def lock_reservation(connection: AsyncConnection, reservation_id: UUID) -> Reservation | None:
    """One hold, locked."""
    query = select(reservations).where(reservations.c.reservation_id == reservation_id).with_for_update()
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else _reservation(row)


async def change_reservation(connection: AsyncConnection, reservation_id: UUID, **values: Any) -> None:
    """Change a hold that is locked by this transaction."""
    await connection.execute(
        update(reservations)
        .where(reservations.c.reservation_id == reservation_id)
        .values(updated_at=func.clock_timestamp(), **values)
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
        row.accepted_before,
        row.close_attempts,
    )
