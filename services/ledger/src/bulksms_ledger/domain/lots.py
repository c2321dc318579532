"""Lots: credits that came in together, used earliest expiry first, and what reservations took of them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final

import msgspec

_NEVER: Final = datetime.max.replace(tzinfo=UTC)


class Imbalance(Exception):  # noqa: N818 - what it is called where it happens
    """Lots and allocations do not add up to the balances: a fault in the ledger or its data, never in a request."""


class Lot(msgspec.Struct, frozen=True, gc=False):
    """Credits of one grant that are available: not reserved, captured or expired."""

    version: int  # of the entry that brought them in; the lot's name within its account
    expires_at: datetime | None
    available: int

    def has_expired(self, at: datetime) -> bool:
        """True when what is available of the lot may no longer be used."""
        return self.expires_at is not None and self.expires_at <= at


class LotAllocation(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One reservation's share of one lot; released credits go back to the lot they were taken from."""

    lot: int  # the lot's version
    expires_at: datetime | None
    open: int
    captured: int = 0  # less refunds


Lots = tuple[Lot, ...]  # those with credits available, in the order they are used up
LotAllocations = tuple[LotAllocation, ...]  # in the order they are captured


def add(lots: Lots, lot: Lot) -> Lots:
    """The lots with one more, or with more in one of them."""
    return put_back(lots, [lot])


def take(lots: Lots, units: int) -> tuple[Lots, LotAllocations]:
    """Take available credits, earliest expiry first; the caller has checked that there are enough."""
    allocations: list[LotAllocation] = []
    for index, lot in enumerate(lots):
        taken = min(units, lot.available)
        allocations.append(LotAllocation(lot.version, lot.expires_at, taken))
        units -= taken
        if units == 0:
            left = lot.available - taken
            kept = (Lot(lot.version, lot.expires_at, left),) if left else ()
            return kept + lots[index + 1 :], tuple(allocations)
    raise Imbalance(f"{units} units are missing in the lots though the balance has them")


def put_back(lots: Lots, returned: Iterable[Lot]) -> Lots:
    """Give credits back to the lots they were taken from."""
    by_version = {lot.version: lot for lot in lots}
    for lot in returned:
        there = by_version.get(lot.version)
        available = lot.available + (there.available if there else 0)
        by_version[lot.version] = Lot(lot.version, lot.expires_at, available)
    return tuple(sorted(by_version.values(), key=_order))


def capture(allocations: LotAllocations, units: int) -> LotAllocations:
    """Turn open credits of the allocations into captured ones, in order."""
    if allocations and allocations[0].open >= units:  # by far the most common: the first allocation has enough
        first = allocations[0]
        return (
            LotAllocation(first.lot, first.expires_at, first.open - units, first.captured + units),
            *allocations[1:],
        )
    captured: list[LotAllocation] = []
    for one in allocations:
        taken = min(units, one.open)
        units -= taken
        captured.append(LotAllocation(one.lot, one.expires_at, one.open - taken, one.captured + taken))
    if units:
        raise Imbalance(f"{units} captured units are not allocated to a lot")
    return tuple(captured)


def release(allocations: LotAllocations, units: int) -> tuple[LotAllocations, list[Lot]]:
    """Free open credits, the ones that last longest first, so that what expires soon is still used first."""
    kept: list[LotAllocation] = []
    returned: list[Lot] = []
    for one in reversed(allocations):
        freed = min(units, one.open)
        units -= freed
        kept.append(LotAllocation(one.lot, one.expires_at, one.open - freed, one.captured))
        if freed:
            returned.append(Lot(one.lot, one.expires_at, freed))
    if units:
        raise Imbalance(f"{units} released units are not allocated to a lot")
    return tuple(reversed(kept)), returned


def refund(allocations: LotAllocations, units: int) -> tuple[LotAllocations, list[Lot]]:
    """Free captured credits, the ones that last longest first."""
    kept: list[LotAllocation] = []
    returned: list[Lot] = []
    for one in reversed(allocations):
        freed = min(units, one.captured)
        units -= freed
        kept.append(LotAllocation(one.lot, one.expires_at, one.open, one.captured - freed))
        if freed:
            returned.append(Lot(one.lot, one.expires_at, freed))
    if units:
        raise Imbalance(f"{units} refunded units are not allocated to a lot")
    return tuple(reversed(kept)), returned


def _order(lot: Lot) -> tuple[datetime, int]:
    return lot.expires_at or _NEVER, lot.version
