"""Authorizations as they are stored: positions of all reservations on one line of numbers, so that none overlap."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import msgspec

from bulksms_ledger.domain.authorizations import Authorization
from bulksms_ledger.domain.positions import POSITIONS_IN_RESERVATION, Positions


class StoredAuthorization(msgspec.Struct, gc=False):
    """A row of `authorizations`, as LOAD_SESSION has it."""

    reservation: int
    attempt_id: UUID
    created_at: datetime
    taken: str
    captured_positions: str
    units: int
    authorized: int
    captured: int
    released: int
    voided: int


def authorization_from_stored(stored: StoredAuthorization, reservation_id: UUID) -> Authorization:
    """The domain's value of a row."""
    return Authorization(
        reservation_id,
        stored.attempt_id,
        stored.created_at,
        _decode_positions(stored.taken, stored.reservation),
        _decode_positions(stored.captured_positions, stored.reservation),
        stored.units,
        stored.authorized,
        stored.captured,
        stored.released,
        stored.voided,
    )


def encode_positions(positions: Positions, number: int) -> str:
    """Positions of the reservation of a number, as an int8multirange."""
    base = number * POSITIONS_IN_RESERVATION
    return "{" + ",".join(f"[{base + first},{base + end})" for first, end in positions) + "}"


def _decode_positions(multirange: str, number: int) -> Positions:
    if multirange == "{}":
        return ()
    base = number * POSITIONS_IN_RESERVATION
    numbers = [int(bound) - base for bound in multirange.translate(_NO_BRACKETS).split(",")]
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


_NO_BRACKETS = str.maketrans("", "", "{}[)")
