"""Reservation rows: every hold of credits this service asks the ledger for, written down before it is asked."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Row, func, insert, select, text, update
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


async def insert_reservation(connection: AsyncConnection, reservation: Reservation) -> None:
    """Write a hold down."""
    now = func.clock_timestamp()
    await connection.execute(insert(reservations).values(**reservation._asdict(), created_at=now, updated_at=now))


async def lock_reservations(connection: AsyncConnection, campaign_id: UUID, enqueue_number: int) -> list[Reservation]:
    """All holds of one enqueue, oldest first, locked."""
    query = (
        select(reservations)
        .where(reservations.c.campaign_id == campaign_id, reservations.c.enqueue_number == enqueue_number)
        .order_by(reservations.c.attempt)
        .with_for_update()
    )
    return [_reservation(row) for row in await connection.execute(query)]


async def lock_reservation(connection: AsyncConnection, reservation_id: UUID) -> Reservation | None:
    """One hold, locked."""
    query = select(reservations).where(reservations.c.reservation_id == reservation_id).with_for_update()
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else _reservation(row)


# What the campaign's counter says now is where this reservation's captures start to count.
_ADOPT = text("""
    UPDATE reservations r SET state = 2, updated_at = clock_timestamp(),
        accepted_before = (SELECT accepted FROM campaign_counters k WHERE k.campaign_id = r.campaign_id)
    WHERE reservation_id = :reservation_id AND state = 1
""")


async def adopt_reservation(connection: AsyncConnection, reservation: Reservation) -> bool:
    """INTENDED → ADOPTED; False when it is not INTENDED any more."""
    return (await connection.execute(_ADOPT, {"reservation_id": reservation.reservation_id})).rowcount == 1


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
