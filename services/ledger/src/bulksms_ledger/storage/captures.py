"""Captures in the database: a small group of nothing else is written by one statement, without BEGIN and COMMIT."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from bulksms_ledger.accounts import Account
from bulksms_ledger.books import Book
from bulksms_ledger.operations import Answer, Recorded
from bulksms_ledger.reservations import Reservation
from bulksms_ledger.storage.books import RawConnection
from bulksms_ledger.storage.rows import array, encode_json

# Between pieces of evidence. JSON has it nowhere: control characters are escaped there.
_SEPARATOR: Final = "\x1e"


async def write_captures(connection: RawConnection, base: Account, book: Book, now: datetime) -> bool:
    """Write a book that has only captured, all at once; False, and nothing is written, when it can't be.

    It can't when the account is no longer what the book was decided on, or a request id has been used before. (Where
    another process uses one just now the key of operations is violated.)
    """
    account, entries, holds = book.account, book.entries, book.changed_holds
    after = [_reservation_after(recorded) for recorded in book.recorded]
    written = await connection.fetchrow(
        _WRITE_CAPTURES,
        base.tenant_id,
        base.available,
        base.reserved,
        base.captured,
        base.version,
        base.entry_hash,
        None if base.subscription is None else base.subscription.updated_at,
        account.reserved,
        account.captured,
        account.version,
        account.entry_hash,
        account.last_entry_at,
        now,
        array(entry.request_id for entry in entries),
        array(entry.units for entry in entries),
        array(entry.captured_after for entry in entries),
        array(entry.reservation_id for entry in entries),
        _SEPARATOR.join("" if entry.evidence is None else encode_json(entry.evidence) for entry in entries),
        array(entry.hash.hex() for entry in entries),
        array(reservation.captured for reservation in after),
        array(reservation.released for reservation in after),
        array(reservation.refunded for reservation in after),
        [hold.reservation.reservation_id for hold in holds],
        [hold.reservation.open for hold in holds],
        [hold.reservation.captured for hold in holds],
        [encode_json(hold.pins) for hold in holds],
    )
    return written is not None


def _reservation_after(recorded: Recorded) -> Reservation:
    if not isinstance(recorded.outcome, Answer) or recorded.outcome.reservation is None:
        raise TypeError("a capture that has been carried out answers its reservation")
    return recorded.outcome.reservation


# The account comes first: unless it is changed nothing is, and the trigger of entries compares with it. A capture is
# of kind 4 and moves its units from reserved to captured; its version and what it leaves reserved follow from the
# account before. Operations in id order, as everywhere.
_WRITE_CAPTURES: Final = """
WITH account AS (
    UPDATE accounts SET reserved = $8, captured = $9, version = $10, entry_hash = $11, last_entry_at = $12
    WHERE tenant_id = $1 AND available = $2 AND reserved = $3 AND captured = $4 AND version = $5 AND entry_hash = $6
        AND subscription_updated_at IS NOT DISTINCT FROM $7
        AND cardinality(ARRAY(SELECT request_id FROM operations WHERE request_id = ANY ($14::text::uuid[]))) = 0
    RETURNING tenant_id, available, last_entry_at
), held AS (
    UPDATE reservations SET open_units = changed.open_units, captured = changed.captured, pins = changed.pins
    FROM account, unnest($23::uuid[], $24::bigint[], $25::bigint[], $26::jsonb[])
        AS changed (reservation_id, open_units, captured, pins)
    WHERE reservations.tenant_id = account.tenant_id AND reservations.reservation_id = changed.reservation_id
    RETURNING reservations.reservation_id, campaign_id
), captures AS (
    SELECT account.*, captures.*, held.campaign_id, $5 + place AS version
    FROM account, unnest(
        $14::text::uuid[], $15::text::bigint[], $16::text::bigint[], $17::text::uuid[],
        string_to_array($18, E'\\x1e', ''), $19::text::text[],
        $20::text::bigint[], $21::text::bigint[], $22::text::bigint[]
    ) WITH ORDINALITY AS captures (
        request_id, units, captured_after, reservation_id, evidence, hash,
        reservation_captured, reservation_released, reservation_refunded, place)
    JOIN held USING (reservation_id)
), written AS (
    INSERT INTO entries (
        tenant_id, version, kind, units, granted_posting, available_posting, reserved_posting, captured_posting,
        available_after, reserved_after, captured_after, reservation_id, campaign_id, request_id, reason, source_ref,
        evidence, created_at, hash)
    SELECT tenant_id, version, 4, units, 0, 0, -units, units,
        available, $3 + $4 - captured_after, captured_after, reservation_id, campaign_id, request_id, '', '',
        evidence, last_entry_at, decode(hash, 'hex')
    FROM captures ORDER BY version
), kept AS (
    INSERT INTO operations (request_id, tenant_id, created_at, told_by, captured, released, refunded)
    SELECT request_id, tenant_id, $13, version, reservation_captured, reservation_released, reservation_refunded
    FROM captures ORDER BY request_id
)
SELECT tenant_id FROM account
"""
