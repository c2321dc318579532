"""The statements that account sessions are locked, loaded and saved with; parameters as asyncpg numbers them."""

from __future__ import annotations

from typing import Final

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
            'reservation_id', entries.reservation_id, 'units', entries.units, 'evidence', entries.evidence::json)),
        'outcome', json_build_object('outcome', 'result', 'reservation', json_build_object(
            'reservation_id', reservations.reservation_id, 'tenant_id', reservations.tenant_id,
            'campaign_id', reservations.campaign_id, 'units', reservations.units,
            'open', reservations.units - operations.captured - operations.released,
            'opened_version', reservations.opened_version, 'created_at', reservations.created_at,
            'captured', operations.captured, 'released', operations.released, 'refunded', operations.refunded)))
    FROM entries JOIN reservations USING (tenant_id, reservation_id)
    WHERE entries.tenant_id = operations.tenant_id AND entries.version = operations.entry_version)
END
"""

FIND_OPERATIONS: Final = f"SELECT ({_RECORDED})::text FROM operations WHERE request_id = ANY ($1::uuid[])"

# All that a group of operations needs, as one JSON document whose names are those of the domain's values: four
# statements would wait for the network four times. Lots come in the order they are used up: earliest expiry first,
# then as they came in.
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
                'closed_at', closed_at),
            'allocations', lot_allocations)
        FROM reservations WHERE tenant_id = $1 AND reservation_id = ANY ($2::uuid[])),
    'operations', ARRAY(
        SELECT {_RECORDED}
        FROM operations WHERE request_id = ANY ($3::uuid[])),
    'source_refs', ARRAY(
        SELECT source_ref FROM lots WHERE tenant_id = $1 AND source_ref = ANY ($4::text[]))
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

UPSERT_RESERVATIONS: Final = """
INSERT INTO reservations (
    tenant_id, reservation_id, campaign_id, state, units, open_units, captured, released, refunded,
    opened_version, lot_allocations, created_at, closed_at)
SELECT $1, * FROM unnest(
    $2::uuid[], $3::text[], $4::smallint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[],
    $10::bigint[], $11::jsonb[], $12::timestamptz[], $13::timestamptz[])
ON CONFLICT (tenant_id, reservation_id) DO UPDATE SET
    state = excluded.state, open_units = excluded.open_units, captured = excluded.captured,
    released = excluded.released, refunded = excluded.refunded, lot_allocations = excluded.lot_allocations,
    closed_at = excluded.closed_at
"""

INSERT_OPERATION: Final = """
INSERT INTO operations (request_id, tenant_id, content, outcome, created_at) VALUES ($1, $2, $3, $4, $5)
"""

INSERT_SUBSCRIPTION_EVENT: Final = """
INSERT INTO subscription_events (tenant_id, request_id, status, active_until, reason, created_at)
VALUES ($1, $2, $3, $4, $5, $6)
"""
