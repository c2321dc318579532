"""The tables, as queries see them; migrations/ creates them, with the rules the database enforces."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    Uuid,
)
from sqlalchemy.dialects.postgresql import ARRAY, INT8MULTIRANGE, JSONB

METADATA: Final = MetaData()
_INSTANT: Final = DateTime(timezone=True)
_BYTE_ORDER: Final = Text(collation="C")  # pages in tenant id order do not depend on the database's locale

# One row per tenant. Its row lock is the only lock of the ledger: every decision on an account is taken under it.
accounts: Final = Table(
    "accounts",
    METADATA,
    Column("tenant_id", _BYTE_ORDER, primary_key=True),
    Column("available", BigInteger, nullable=False),
    Column("reserved", BigInteger, nullable=False),
    Column("captured", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("entry_hash", LargeBinary, nullable=False),
    Column("last_entry_at", _INSTANT),
    Column("subscription_status", SmallInteger),
    Column("subscription_active_until", _INSTANT),
    Column("subscription_reason", Text),
    Column("subscription_updated_at", _INSTANT),
    Column("created_at", _INSTANT, nullable=False),
)

# Every change of a subscription, append-only.
subscription_events: Final = Table(
    "subscription_events",
    METADATA,
    Column("tenant_id", _BYTE_ORDER, primary_key=True),
    Column("event_id", BigInteger, primary_key=True),
    Column("request_id", Uuid, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("active_until", _INSTANT),
    Column("reason", Text, nullable=False),
    Column("created_at", _INSTANT, nullable=False),
)

# Credits that came in together; `available` is what is neither reserved, captured nor expired of them.
lots: Final = Table(
    "lots",
    METADATA,
    Column("tenant_id", _BYTE_ORDER, primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("units", BigInteger, nullable=False),
    Column("available", BigInteger, nullable=False),
    Column("expires_at", _INSTANT),
    Column("source_ref", Text),
    Column("created_at", _INSTANT, nullable=False),
)

# units = open_units + authorized + captured + released; `lot_allocations` says of which lots, and `number` where its
# positions stand among those of all reservations.
reservations: Final = Table(
    "reservations",
    METADATA,
    Column("tenant_id", _BYTE_ORDER, primary_key=True),
    Column("reservation_id", Uuid, primary_key=True),
    Column("campaign_id", Text, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("units", BigInteger, nullable=False),
    Column("open_units", BigInteger, nullable=False),
    Column("authorized", BigInteger, nullable=False),
    Column("captured", BigInteger, nullable=False),
    Column("released", BigInteger, nullable=False),
    Column("refunded", BigInteger, nullable=False),
    Column("opened_version", BigInteger, nullable=False),
    Column("lot_allocations", JSONB, nullable=False),
    Column("created_at", _INSTANT, nullable=False),
    Column("closed_at", _INSTANT),
    Column("enqueue_number", Integer, nullable=False),
    Column("snapshot_digest", LargeBinary, nullable=False),
    Column("number", BigInteger, nullable=False),
    Column("is_live", Boolean, nullable=False),
)

# A row per attempt that was ever authorized, and per tombstone. `taken` is what was authorized and is not void.
authorizations: Final = Table(
    "authorizations",
    METADATA,
    Column("attempt_id", Uuid, primary_key=True),
    Column("tenant_id", _BYTE_ORDER, primary_key=True),
    Column("reservation_number", BigInteger, primary_key=True),
    Column("taken", INT8MULTIRANGE, nullable=False),
    Column("captured_positions", INT8MULTIRANGE, nullable=False),
    Column("units", BigInteger, nullable=False),
    Column("authorized", BigInteger, nullable=False),
    Column("captured", BigInteger, nullable=False),
    Column("released", BigInteger, nullable=False),
    Column("voided", BigInteger, nullable=False),
    Column("created_at", _INSTANT, nullable=False),
)

# The history, append-only. The four postings of an entry sum to zero; the figures after it continue the entry before.
entries: Final = Table(
    "entries",
    METADATA,
    Column("tenant_id", _BYTE_ORDER, primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("kind", SmallInteger, nullable=False),
    Column("units", BigInteger, nullable=False),
    Column("granted_posting", BigInteger, nullable=False),
    Column("available_posting", BigInteger, nullable=False),
    Column("reserved_posting", BigInteger, nullable=False),
    Column("captured_posting", BigInteger, nullable=False),
    Column("available_after", BigInteger, nullable=False),
    Column("reserved_after", BigInteger, nullable=False),
    Column("captured_after", BigInteger, nullable=False),
    Column("reservation_id", Uuid),
    Column("campaign_id", Text, nullable=False),
    Column("request_id", Uuid, nullable=False),
    Column("reason", Text, nullable=False),
    Column("source_ref", Text, nullable=False),
    Column("expires_at", _INSTANT),
    Column("evidence", Text),  # JSON
    Column("created_at", _INSTANT, nullable=False),
    Column("hash", LargeBinary, nullable=False),
)

# Every request decided, append-only: its content tells a repeat from a reuse of the id, its outcome is what it is
# answered with for ever. Of a capture carried out the entry `entry_version` says what was asked for; only its attempt,
# its positions and its reservation's figures after it are kept here.
operations: Final = Table(
    "operations",
    METADATA,
    Column("request_id", Uuid, primary_key=True),
    Column("tenant_id", _BYTE_ORDER, nullable=False),
    Column("content", Text),
    Column("outcome", Text),
    Column("created_at", _INSTANT, nullable=False),
    Column("entry_version", BigInteger),
    Column("captured", BigInteger),
    Column("released", BigInteger),
    Column("refunded", BigInteger),
    Column("authorized", BigInteger),
    Column("reservation_state", SmallInteger),
    Column("attempt_id", Uuid),
    Column("positions", Text),  # JSON
)

# How far each account has been audited, shared by the auditors of all replicas; what differed, and since when.
audits: Final = Table(
    "audits",
    METADATA,
    Column("tenant_id", _BYTE_ORDER, primary_key=True),
    Column("newest_version", BigInteger, nullable=False),
    Column("patrol_version", BigInteger, nullable=False),
    Column("audited_at", _INSTANT, nullable=False),
    Column("differences", ARRAY(Text), nullable=False),
    Column("found_at", _INSTANT),
    Column("abandoned", ARRAY(Uuid), nullable=False),
)
