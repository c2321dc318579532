"""Rows: how stored records become the domain's values and back."""

from __future__ import annotations

from typing import Any, Final, Protocol

import msgspec

from bulksms_ledger.domain.accounts import Account, Subscription, SubscriptionStatus
from bulksms_ledger.domain.entries import Entry, EntryKind, Evidence
from bulksms_ledger.domain.lots import LotAllocations
from bulksms_ledger.domain.reservations import AllocatedReservation, Reservation, ReservationState


class Row(Protocol):
    """Columns by name: a RowMapping of SQLAlchemy, or a Record of asyncpg."""

    def __getitem__(self, column: str, /) -> Any:
        """The column's value."""


def account_from_row(row: Row) -> Account:
    """The account of an `accounts` row."""
    subscription = None
    if row["subscription_status"] is not None:
        subscription = Subscription(
            SubscriptionStatus(row["subscription_status"]),
            row["subscription_active_until"],
            row["subscription_reason"],
            row["subscription_updated_at"],
        )
    return Account(
        row["tenant_id"],
        row["created_at"],
        row["available"],
        row["reserved"],
        row["captured"],
        row["version"],
        row["entry_hash"],
        row["last_entry_at"],
        subscription,
    )


def reservation_from_row(row: Row) -> Reservation:
    """The reservation of a `reservations` row."""
    return Reservation(
        reservation_id=row["reservation_id"],
        tenant_id=row["tenant_id"],
        campaign_id=row["campaign_id"],
        units=row["units"],
        open=row["open_units"],
        opened_version=row["opened_version"],
        created_at=row["created_at"],
        captured=row["captured"],
        released=row["released"],
        refunded=row["refunded"],
        state=_STATES[row["state"]],
        closed_at=row["closed_at"],
        authorized=row["authorized"],
        enqueue_number=row["enqueue_number"],
    )


def allocated_reservation_from_row(row: Row) -> AllocatedReservation:
    """The reservation of a `reservations` row with its lot allocations."""
    allocations = msgspec.convert(row["lot_allocations"], LotAllocations)
    return AllocatedReservation(reservation_from_row(row), allocations, row["snapshot_digest"], row["number"])


def entry_from_row(row: Row) -> Entry:
    """The entry of an `entries` row."""
    evidence = row["evidence"]
    return Entry(
        row["tenant_id"],
        row["version"],
        EntryKind(row["kind"]),
        row["units"],
        row["available_after"],
        row["reserved_after"],
        row["captured_after"],
        row["reservation_id"],
        row["campaign_id"],
        row["request_id"],
        row["reason"],
        row["source_ref"],
        row["expires_at"],
        None if evidence is None else _evidence(evidence),
        row["created_at"],
        row["hash"],
    )


def encode_json(value: object) -> str:
    """A value for a jsonb column written through asyncpg, which takes text."""
    return _encode(value).decode()


def _evidence(text: str) -> Evidence:
    try:
        return _decode_evidence(text)
    except msgspec.MsgspecError:  # somebody has changed it: the entry's hash is not that of this, and will say so
        return Evidence(batch_id=text)


_STATES: Final = {int(state): state for state in ReservationState}
_encode: Final = msgspec.json.Encoder().encode
_decode_evidence: Final = msgspec.json.Decoder(Evidence).decode
