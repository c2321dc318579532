"""The tables, as queries see them; migrations/ creates them, with their indexes and the rules the database enforces."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    Uuid,
)

METADATA: Final = MetaData()
_INSTANT: Final = DateTime(timezone=True)
_BYTE_ORDER: Final = Text(collation="C")  # pages do not depend on the database's locale

contacts: Final = Table(
    "contacts",
    METADATA,
    Column("phone", BigInteger, primary_key=True),
    Column("created_at", _INSTANT, nullable=False),
    Column("updated_at", _INSTANT, nullable=False),
    Column("tenant_id", _BYTE_ORDER, primary_key=True),
    Column("first_name", Text, nullable=False),
    Column("last_name", Text, nullable=False),
    Column("external_id", _BYTE_ORDER),
)

contact_groups: Final = Table(
    "contact_groups",
    METADATA,
    Column("phone", BigInteger, primary_key=True),
    Column("added_at", _INSTANT, nullable=False),
    Column("tenant_id", _BYTE_ORDER, primary_key=True),
    Column("group_name", _BYTE_ORDER, primary_key=True),
)

opt_outs: Final = Table(
    "opt_outs",
    METADATA,
    Column("phone", BigInteger, primary_key=True),
    Column("created_at", _INSTANT, nullable=False),
    Column("tenant_id", _BYTE_ORDER, primary_key=True),
    Column("source", Text, nullable=False),
)

contact_counts: Final = Table(
    "contact_counts",
    METADATA,
    Column("tenant_id", _BYTE_ORDER, primary_key=True),
    Column("group_name", _BYTE_ORDER, primary_key=True),
    Column("contacts", BigInteger, nullable=False),
    Column("opted_out", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
)

audience_sizes: Final = Table(
    "audience_sizes",
    METADATA,
    Column("tenant_id", _BYTE_ORDER, primary_key=True),
    Column("audience_id", Uuid, primary_key=True),
    Column("groups", ARRAY(Text), nullable=False),
    Column("exclude_groups", ARRAY(Text), nullable=False),
    Column("reachable", BigInteger, nullable=False),
    Column("opted_out", BigInteger, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("since", BigInteger),
    Column("used_at", _INSTANT, nullable=False),
)

opt_out_changes: Final = Table(
    "opt_out_changes",
    METADATA,
    Column("tenant_id", _BYTE_ORDER, primary_key=True),
    Column("phone", BigInteger, primary_key=True),
    Column("opted_out", Boolean, nullable=False),
    Column("change_id", Uuid, nullable=False),
)

imports: Final = Table(
    "imports",
    METADATA,
    Column("tenant_id", _BYTE_ORDER, primary_key=True),
    Column("import_id", Uuid, primary_key=True),
    Column("content_hash", LargeBinary, nullable=False),
    Column("lines", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("updated", BigInteger, nullable=False),
    Column("duplicates", BigInteger, nullable=False),
    Column("rejected", BigInteger, nullable=False),
    Column("created_at", _INSTANT, nullable=False),
)

import_lines: Final = Table(
    "import_lines",
    METADATA,
    Column("tenant_id", _BYTE_ORDER, primary_key=True),
    Column("import_id", Uuid, primary_key=True),
    Column("line_number", BigInteger, primary_key=True),
    Column("outcome", SmallInteger, nullable=False),
    Column("reason", Text, nullable=False),
    Column("field", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("first_line_number", BigInteger, nullable=False),
)

campaigns: Final = Table(
    "campaigns",
    METADATA,
    Column("campaign_id", Uuid, primary_key=True),
    Column("tenant_id", _BYTE_ORDER, primary_key=True),
    Column("name", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("sender", Text, nullable=False),
    Column("all_contacts", Boolean, nullable=False),
    Column("groups", ARRAY(Text), nullable=False),
    Column("exclude_groups", ARRAY(Text), nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("message_class", SmallInteger, nullable=False),
    Column("external_id", _BYTE_ORDER),
    Column("state", SmallInteger, nullable=False),
    Column("revision", Integer, nullable=False),
    Column("scheduled_at", _INSTANT),
    Column("not_after", _INSTANT),
    Column("created_at", _INSTANT, nullable=False),
    Column("updated_at", _INSTANT, nullable=False),
    Column("ended_at", _INSTANT),
    Column("enqueue_number", Integer, nullable=False),
)

enqueues: Final = Table(
    "enqueues",
    METADATA,
    Column("campaign_id", Uuid, primary_key=True),
    Column("reservation_id", Uuid, nullable=False),
    Column("enqueued_at", _INSTANT, nullable=False),
    Column("snapshot_at", _INSTANT),
    Column("submitted_at", _INSTANT),
    Column("total", BigInteger, nullable=False),
    Column("queued", BigInteger, nullable=False),
    Column("sent", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("unconfirmed", BigInteger, nullable=False),
    Column("cancelled", BigInteger, nullable=False),
    Column("delivered", BigInteger, nullable=False),
    Column("accepted", BigInteger, nullable=False),
    Column("accepted_units", BigInteger, nullable=False),
    Column("ambiguous", BigInteger, nullable=False),
    Column("changed_at", _INSTANT),
    Column("earlier_at", _INSTANT),
    Column("earlier_processed", BigInteger, nullable=False),
    Column("later_at", _INSTANT),
    Column("later_processed", BigInteger, nullable=False),
    Column("enqueue_number", Integer, primary_key=True),
    Column("launched_on", Date, nullable=False),
    Column("tenant_id", _BYTE_ORDER, primary_key=True),
    Column("traceparent", Text, nullable=False),
    Column("snapshot_digest", LargeBinary),
)

recipients: Final = Table(
    "recipients",
    METADATA,
    Column("campaign_id", Uuid, primary_key=True),
    Column("phone", BigInteger, primary_key=True),
    Column("updated_at", _INSTANT, nullable=False),
    Column("enqueue_number", Integer, primary_key=True),
    Column("launched_on", Date, primary_key=True),
    Column("position", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("facts", SmallInteger, nullable=False),
    Column("units", SmallInteger, nullable=False),
    Column("superseded", Boolean, nullable=False),
    Column("tenant_id", _BYTE_ORDER, primary_key=True),
    Column("provider_message_id", Text),
    Column("reason", Text),
    Column("description", Text),
    Column("report_description", Text),
    Column("variables", ARRAY(Text)),
)

campaign_batches: Final = Table(
    "campaign_batches",
    METADATA,
    Column("batch_id", Uuid, primary_key=True),
    Column("campaign_id", Uuid, nullable=False),
    Column("first_phone", BigInteger, nullable=False),
    Column("last_phone", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("enqueue_number", Integer, nullable=False),
    Column("tenant_id", _BYTE_ORDER, primary_key=True),
    Column("bulk_id", Text, nullable=False),
    Column("traceparent", Text, nullable=False),
    Column("attempt_id", Uuid),
    Column("unsure_attempt_id", Uuid),
    Column("recorded_at", _INSTANT, nullable=False),
)

campaign_events: Final = Table(
    "campaign_events",
    METADATA,
    Column("tenant_id", _BYTE_ORDER, primary_key=True),
    Column("campaign_id", Uuid, primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("kind", SmallInteger, nullable=False),
    Column("detail", Text, nullable=False),
    Column("at", _INSTANT, nullable=False),
)

requests: Final = Table(
    "requests",
    METADATA,
    Column("tenant_id", _BYTE_ORDER, primary_key=True),
    Column("request_id", Uuid, primary_key=True),
    Column("operation", Text, nullable=False),
    Column("content_hash", LargeBinary, nullable=False),
    Column("campaign_id", Uuid),
    Column("created", BigInteger, nullable=False),
    Column("enqueued_jobs", BigInteger, nullable=False),
    Column("created_at", _INSTANT, nullable=False),
)

campaign_holds: Final = Table(
    "campaign_holds",
    METADATA,
    Column("campaign_id", Uuid, primary_key=True),
    Column("tenant_id", _BYTE_ORDER, primary_key=True),
    Column("reason", SmallInteger, nullable=False),
    Column("noted", SmallInteger),
    Column("since", _INSTANT, nullable=False),
    Column("until", _INSTANT),
    Column("batch_reason", Text, nullable=False),
    Column("description", Text, nullable=False),
)

reservations: Final = Table(
    "reservations",
    METADATA,
    Column("reservation_id", Uuid, primary_key=True),
    Column("campaign_id", Uuid, nullable=False),
    Column("tenant_id", _BYTE_ORDER, primary_key=True),
    Column("enqueue_number", Integer, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("units", BigInteger, nullable=False),
    Column("close_attempts", Integer, nullable=False),
    Column("created_at", _INSTANT, nullable=False),
    Column("updated_at", _INSTANT, nullable=False),
)

tasks: Final = Table(
    "tasks",
    METADATA,
    Column("kind", SmallInteger, primary_key=True),
    Column("subject", Uuid, primary_key=True),
    Column("tenant_id", _BYTE_ORDER, primary_key=True),
    Column("generation", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("due_at", _INSTANT, nullable=False),
    Column("lease_id", Uuid),
    Column("leased_until", _INSTANT),
)
