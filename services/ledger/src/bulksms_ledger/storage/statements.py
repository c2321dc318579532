"""The statements that account sessions are locked, loaded and saved with; parameters as asyncpg numbers them."""

from __future__ import annotations

from typing import Final

from bulksms_ledger.domain.positions import POSITIONS_IN_RESERVATION

CREATE_ACCOUNT: Final = """
INSERT INTO accounts (tenant_id, entry_hash, created_at) VALUES ($1, $2, $3)
ON CONFLICT (tenant_id) DO NOTHING RETURNING tenant_id
"""

# Columns by name: what a prepared statement returns must not change when a migration adds one.
_ACCOUNT = """
    tenant_id, created_at, available, reserved, captured, version, entry_hash, last_entry_at,
    subscription_status, subscription_active_until, subscription_reason, subscription_updated_at
"""

LOCK_ACCOUNT: Final = f"SELECT {_ACCOUNT} FROM accounts WHERE tenant_id = $1 FOR UPDATE"

# An operation and its outcome as one JSON document; of a capture both are told from its entry and its reservation.
_RECORDED = """
CASE WHEN content IS NOT NULL THEN json_build_object('operation', content::json, 'outcome', outcome::json) ELSE (
    SELECT json_build_object(
        'operation', json_strip_nulls(json_build_object(
            'operation', 'Capture', 'request_id', operations.request_id, 'tenant_id', operations.tenant_id,
            'reservation_id', entries.reservation_id, 'units', entries.units, 'evidence', entries.evidence::json,
            'attempt_id', operations.attempt_id, 'positions', operations.positions::json)),
        'outcome', json_build_object('outcome', 'result', 'reservation', json_build_object(
            'reservation_id', reservations.reservation_id, 'tenant_id', reservations.tenant_id,
            'campaign_id', reservations.campaign_id, 'units', reservations.units,
            'open', reservations.units - operations.authorized - operations.captured - operations.released,
            'opened_version', reservations.opened_version, 'created_at', reservations.created_at,
            'captured', operations.captured, 'released', operations.released, 'refunded', operations.refunded,
            'state', operations.reservation_state,
            'closed_at', CASE WHEN operations.reservation_state <> reservations.state THEN NULL
                ELSE reservations.closed_at END,
            'authorized', operations.authorized, 'enqueue_number', reservations.enqueue_number)))
    FROM entries JOIN reservations USING (tenant_id, reservation_id)
    WHERE entries.tenant_id = operations.tenant_id AND entries.version = operations.entry_version)
END
"""

FIND_OPERATIONS: Final = f"SELECT ({_RECORDED})::text FROM operations WHERE request_id = ANY ($1::uuid[])"

_AUTHORIZATION = """
json_build_object(
    'reservation', reservation_number, 'attempt_id', attempt_id, 'created_at', created_at, 'taken', taken::text,
    'captured_positions', captured_positions::text, 'units', units, 'authorized', authorized,
    'captured', captured, 'released', released, 'voided', voided)
"""

# All that a group of operations needs, as one JSON document whose names are those of the domain's values: four
# statements would wait for the network four times. Lots come in the order they are used up: earliest expiry first,
# then as they came in. Authorizations are those of the attempts that are named, and those that hold any of the
# positions that are asked for: a look per range. OFFSET 0 keeps the tenant out of it: in a young table a plan with the
# tenant read the whole primary key instead of the index of positions.
LOAD_SESSION: Final = f"""
SELECT json_build_object(
    'lots', ARRAY(
        SELECT json_build_object('version', version, 'expires_at', expires_at, 'available', available)
        FROM lots WHERE tenant_id = $1 AND available > 0
        ORDER BY lots.expires_at NULLS LAST, lots.version),
    'reservations', ARRAY(
        SELECT json_build_object(
            'reservation', json_build_object(
                'reservation_id', reservation_id, 'tenant_id', tenant_id, 'campaign_id', campaign_id, 'units', units,
                'open', open_units, 'opened_version', opened_version, 'created_at', created_at,
                'captured', captured, 'released', released, 'refunded', refunded, 'state', state,
                'closed_at', closed_at, 'authorized', authorized, 'enqueue_number', enqueue_number),
            'allocations', lot_allocations, 'snapshot_digest', encode(snapshot_digest, 'base64'), 'number', number)
        FROM reservations WHERE tenant_id = $1 AND reservation_id = ANY ($2::uuid[])),
    'operations', ARRAY(
        SELECT {_RECORDED}
        FROM operations WHERE request_id = ANY ($3::uuid[])),
    'source_refs', ARRAY(
        SELECT source_ref FROM lots WHERE tenant_id = $1 AND source_ref = ANY ($4::text[])),
    'attempts', ARRAY(
        SELECT {_AUTHORIZATION}
        FROM authorizations WHERE attempt_id = ANY ($5::uuid[]) AND tenant_id = $1),
    'holders', ARRAY(
        SELECT holder.document
        FROM unnest($6::uuid[], $7::bigint[], $8::bigint[]) AS asked (reservation_id, first, behind_last)
        CROSS JOIN LATERAL (
            SELECT number * {POSITIONS_IN_RESERVATION} AS base FROM reservations
            WHERE tenant_id = $1 AND reservation_id = asked.reservation_id
            OFFSET 0) AS reservation
        CROSS JOIN LATERAL (
            SELECT tenant_id, {_AUTHORIZATION} AS document FROM authorizations
            WHERE taken && int8range(reservation.base + asked.first, reservation.base + asked.behind_last)
            OFFSET 0) AS holder
        WHERE holder.tenant_id = $1)
)::text
"""

UPDATE_ACCOUNT: Final = """
UPDATE accounts SET
    available = $2, reserved = $3, captured = $4, version = $5, entry_hash = $6, last_entry_at = $7,
    subscription_status = $8, subscription_active_until = $9, subscription_reason = $10,
    subscription_updated_at = $11
WHERE tenant_id = $1
"""

INSERT_LOTS: Final = """
INSERT INTO lots (tenant_id, version, units, available, expires_at, source_ref, created_at)
SELECT $1, * FROM unnest(
    $2::bigint[], $3::bigint[], $4::bigint[], $5::timestamptz[], $6::text[], $7::timestamptz[])
"""

UPDATE_LOTS: Final = """
UPDATE lots SET available = changed.available
FROM unnest($2::bigint[], $3::bigint[]) AS changed (version, available)
WHERE lots.tenant_id = $1 AND lots.version = changed.version
"""

# Upserts, since they find rows by their key whatever the statistics say of the tenant. A number is drawn for a new
# reservation only.
UPSERT_RESERVATIONS: Final = """
INSERT INTO reservations (
    tenant_id, reservation_id, campaign_id, enqueue_number, state, units, open_units, authorized, captured, released,
    refunded, opened_version, lot_allocations, snapshot_digest, created_at, closed_at, number)
SELECT $1, reservation_id, campaign_id, enqueue_number, state, units, open_units, authorized, captured, released,
    refunded, opened_version, lot_allocations, snapshot_digest, created_at, closed_at,
    CASE number WHEN 0 THEN nextval('reservation_numbers') ELSE number END
FROM unnest(
    $2::uuid[], $3::text[], $4::integer[], $5::smallint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[],
    $10::bigint[], $11::bigint[], $12::bigint[], $13::jsonb[], $14::bytea[], $15::timestamptz[], $16::timestamptz[],
    $17::bigint[]
) AS changed (
    reservation_id, campaign_id, enqueue_number, state, units, open_units, authorized, captured, released, refunded,
    opened_version, lot_allocations, snapshot_digest, created_at, closed_at, number)
ON CONFLICT (tenant_id, reservation_id) DO UPDATE SET
    state = excluded.state, open_units = excluded.open_units, authorized = excluded.authorized,
    captured = excluded.captured, released = excluded.released, refunded = excluded.refunded,
    lot_allocations = excluded.lot_allocations, snapshot_digest = excluded.snapshot_digest,
    closed_at = excluded.closed_at
RETURNING reservation_id, number
"""

# Positions only ever shrink, so attempts known before the group come first, and those that it has made afterwards:
# what was freed and given away again never meets.
UPSERT_AUTHORIZATIONS: Final = """
INSERT INTO authorizations (
    tenant_id, attempt_id, reservation_number, taken, captured_positions, units, authorized, captured, released, voided,
    created_at)
SELECT $1, attempt_id, reservation_number, taken::int8multirange, captured_positions::int8multirange, units,
    authorized, captured, released, voided, created_at
FROM unnest(
    $2::uuid[], $3::bigint[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[],
    $10::bigint[], $11::timestamptz[]
) AS changed (
    attempt_id, reservation_number, taken, captured_positions, units, authorized, captured, released, voided,
    created_at)
ON CONFLICT (attempt_id, tenant_id, reservation_number) DO UPDATE SET
    taken = excluded.taken, captured_positions = excluded.captured_positions, authorized = excluded.authorized,
    captured = excluded.captured, released = excluded.released, voided = excluded.voided
"""

INSERT_OPERATION: Final = """
INSERT INTO operations (request_id, tenant_id, content, outcome, created_at) VALUES ($1, $2, $3, $4, $5)
"""

INSERT_SUBSCRIPTION_EVENT: Final = """
INSERT INTO subscription_events (tenant_id, request_id, status, active_until, reason, created_at)
VALUES ($1, $2, $3, $4, $5, $6)
"""
