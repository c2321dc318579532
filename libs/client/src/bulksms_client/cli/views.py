"""Which figures people are shown of each message, and under which heading."""

from __future__ import annotations

from bulksms_client.cli.output import Column
from bulksms_client.cli.plain import Document

__all__ = [
    "ACCOUNT",
    "ATTEMPT",
    "BALANCE",
    "BATCH",
    "BATCH_ROW",
    "BATCH_WITH_ATTEMPTS",
    "CAMPAIGN",
    "CAMPAIGN_ROW",
    "CONTACT",
    "CONTACT_ROW",
    "COUNT",
    "COUNTERS",
    "ENQUEUED",
    "ENTRY",
    "EVENT",
    "EXCLUDED",
    "GRANT",
    "IMPORT",
    "IMPORT_LINE",
    "LANE",
    "MESSAGE",
    "MESSAGE_ROW",
    "PLAN",
    "PREVIEW",
    "QUEUE",
    "RATE_LIMIT",
    "RECIPIENT",
    "RECOUNT",
    "RECOUNT_ROW",
    "REFRESHED",
    "RESERVATION",
    "RESOLVED",
    "SAMPLE",
    "STATUS",
    "STOP",
    "STOPPED",
    "SUBSCRIPTION",
    "VERIFICATION",
]


def _time(key: str, heading: str) -> Column:
    """A time to the second, in UTC as everywhere."""
    column = Column(heading, key)

    def shown(document: Document) -> str | None:
        value = column.value(document)
        return None if value is None else str(value)[:19].replace("T", " ") + "Z"

    return Column(heading, shown)


def _audience(document: Document) -> str:
    audience = document["audience"] or {"all_contacts": None, "groups": None, "exclude_groups": []}
    groups = (audience["groups"] or {"names": []})["names"]
    included = "all contacts" if audience["all_contacts"] else ", ".join(groups)
    excluded = ", ".join(audience["exclude_groups"])
    return f"{included} without {excluded}" if excluded else included


def _of(key: str, column: Column) -> Column:
    """The same figure of a document within a document."""
    return Column(column.heading, lambda document: column.value(document[key]))


COUNTERS = (
    Column("total", "total"),
    Column("queued", "queued"),
    Column("sent", "sent"),
    Column("failed", "failed"),
    Column("unconfirmed", "unconfirmed"),
    Column("ambiguous", "ambiguous"),
    Column("cancelled", "cancelled"),
    Column("delivered", "delivered"),
    Column("awaiting report", "awaiting_report"),
)


CAMPAIGN = (
    Column("campaign", "campaign_id"),
    Column("external id", "external_id"),
    Column("name", "name"),
    Column("state", "state"),
    Column("sender", "sender"),
    Column("text", "text"),
    Column("audience", _audience),
    Column("priority", "priority"),
    Column("class", "message_class"),
    *(_of("counters", column) for column in COUNTERS),
    _time("created_at", "created"),
    _time("scheduled_at", "scheduled for"),
    _time("not_after", "not after"),
    _time("enqueued_at", "enqueued"),
    _time("ended_at", "ended"),
    Column("reservation", "reservation_id"),
    Column("trace", "trace_id"),
)
CAMPAIGN_ROW = (
    Column("campaign", "campaign_id"),
    Column("name", "name"),
    Column("state", "state"),
    Column("total", "counters.total"),
    Column("sent", "counters.sent"),
    Column("failed", "counters.failed"),
    Column("delivered", "counters.delivered"),
    _time("created_at", "created"),
)
STATUS = (
    Column("campaign", "campaign_id"),
    Column("state", "state"),
    *(_of("counters", column) for column in COUNTERS),
    Column("rate per second", "rate_per_second"),
    Column("seconds left", "remaining"),
    Column("held by", "hold.reason"),
    Column("batches wait for", "hold.batch_reason"),
    _time("hold.since", "held since"),
    _time("hold.until", "held until"),
    Column("said", "hold.description"),
)
ENQUEUED = (
    Column("campaign", "campaign.campaign_id"),
    Column("state", "campaign.state"),
    Column("recipients", "created"),
    Column("batches", "enqueued_jobs"),
    Column("trace", "campaign.trace_id"),
)
PREVIEW = (
    Column("recipients", "recipients"),
    Column("opted out", "opted_out"),
    Column("parts", "parts"),
    Column("parts counted of", "parts_counted"),
    Column("as UCS-2", "ucs2_recipients"),
    Column("batches", "batches"),
    Column("credits", "credits"),
    Column("credits available", "credits_available"),
    Column("blockers", "blockers"),
)
SAMPLE = (
    Column("to", "masked_phone"),
    Column("parts", "parts"),
    Column("encoding", "encoding"),
    Column("text", "text"),
)
RECIPIENT = (
    Column("phone", "phone"),
    Column("status", "status"),
    Column("reason", "reason"),
    Column("description", "description"),
    Column("message id", "provider_message_id"),
    Column("credits", "units"),
    _time("updated_at", "updated"),
)
EVENT = (
    Column("#", "sequence"),
    _time("at", "at"),
    Column("kind", "kind"),
    Column("detail", "detail"),
)
CONTACT = (
    Column("phone", "phone"),
    Column("external id", "external_id"),
    Column("first name", "first_name"),
    Column("last name", "last_name"),
    Column("groups", "groups"),
    Column("opted out", "opted_out"),
    _time("created_at", "created"),
    _time("updated_at", "updated"),
)
CONTACT_ROW = CONTACT[:6]
COUNT = (Column("reachable", "reachable"), Column("opted out", "opted_out"))
IMPORT = (
    Column("import", "import_id"),
    Column("lines", "lines"),
    Column("imported", "imported"),
    Column("  created", "created"),
    Column("  updated", "updated"),
    Column("duplicates", "duplicates"),
    Column("rejected", "rejected"),
)
IMPORT_LINE = (
    Column("line", "line_number"),
    Column("outcome", "outcome"),
    Column("reason", "reason"),
    Column("column", "field"),
    Column("what is wrong, and the cure", "message"),
)
BALANCE = (
    Column("available", "available"),
    Column("reserved", "reserved"),
    Column("captured", "captured"),
    Column("granted", "granted"),
    _time("as_of", "as of"),
)
SUBSCRIPTION = (
    Column("status", "status"),
    _time("active_until", "active until"),
    Column("reason", "reason"),
    _time("updated_at", "updated"),
)
ACCOUNT = (
    Column("tenant", "tenant_id"),
    Column("subscription", "subscription.status"),
    _time("subscription.active_until", "active until"),
    Column("available", "balance.available"),
    Column("reserved", "balance.reserved"),
    Column("captured", "balance.captured"),
    Column("granted", "balance.granted"),
    _time("created_at", "opened"),
)
GRANT = (
    Column("granted now", "entry.units"),
    Column("available", "balance.available"),
    Column("reserved", "balance.reserved"),
    Column("captured", "balance.captured"),
    Column("granted in all", "balance.granted"),
)
ENTRY = (
    Column("#", "version"),
    _time("created_at", "at"),
    Column("kind", "kind"),
    Column("units", "units"),
    Column("available", "available_after"),
    Column("reserved", "reserved_after"),
    Column("captured", "captured_after"),
    Column("campaign", "campaign_id"),
    Column("reason", "reason"),
)
RESERVATION = (
    Column("reservation", "reservation_id"),
    Column("campaign", "campaign_id"),
    Column("state", "state"),
    Column("units", "units"),
    Column("open", "open"),
    Column("authorized", "authorized"),
    Column("captured", "captured"),
    Column("released", "released"),
    Column("refunded", "refunded"),
)
RECOUNT = (Column("consistent", "consistent"),)
RECOUNT_ROW = (Column("figures", "figures"), *COUNTERS)
VERIFICATION = (
    Column("consistent", "consistent"),
    Column("entries", "entries"),
    Column("differences", "differences"),
)
MESSAGE = (
    Column("message", "message_id"),
    Column("external id", "external_id"),
    Column("phone", "phone"),
    Column("sender", "sender"),
    Column("status", "status"),
    Column("reason", "reason"),
    Column("description", "description"),
    Column("class", "message_class"),
    Column("parts", "parts"),
    Column("provider id", "provider_message_id"),
    _time("created_at", "created"),
    _time("updated_at", "updated"),
)
MESSAGE_ROW = MESSAGE[:7]
REFRESHED = (Column("status", "status"), Column("provider's status", "provider_status"))
STOP = (
    Column("stopped", "scope"),
    Column("key", "key"),
    Column("class", "message_class"),
    Column("reason", "reason"),
    Column("by", "stopped_by"),
    _time("stopped_at", "since"),
)
STOPPED = (*(_of("stop", column) for column in STOP), Column("batches still on the wire", "in_flight"))
QUEUE = (
    Column("oldest ready (s)", "oldest_ready_age"),
    Column("accepted per second", "accepted_per_second"),
    Column("workers alive", "workers_alive"),
    Column("outbox pending", "outbox_pending"),
    Column("pacing available", "pacing_available"),
)
REPUBLISHED = (Column("results", "results"), Column("replayed", "replayed"))
HOLD = (
    Column("traffic account", "traffic_account_id"),
    Column("tenant", "tenant_id"),
    Column("campaign", "campaign_id"),
    Column("kind", "kind"),
    Column("reason", "reason"),
    _time("since", "since"),
    _time("next_probe_at", "next probe"),
    Column("failed probes", "failed_probes"),
)
LANE = (
    Column("state", "state"),
    Column("priority", "priority"),
    Column("batches", "batches"),
    Column("recipients", "recipients"),
)
BATCH_ROW = (
    Column("batch", "batch_id"),
    Column("campaign", "campaign_id"),
    Column("number", "number"),
    Column("recipients", "recipients"),
    Column("state", "state"),
    Column("attempts", "attempts"),
    Column("reason", "reason"),
    _time("not_before", "not before"),
    _time("updated_at", "updated"),
)
BATCH = (
    Column("batch", "batch_id"),
    Column("tenant", "tenant_id"),
    Column("campaign", "campaign_id"),
    Column("submission", "submission_id"),
    Column("number", "number"),
    Column("recipients", "recipients"),
    Column("state", "state"),
    Column("priority", "priority"),
    Column("epoch", "epoch"),
    Column("attempts", "attempts"),
    _time("not_before", "not before"),
    Column("bulk id", "bulk_id"),
    Column("reason", "reason"),
    _time("created_at", "created"),
    _time("updated_at", "updated"),
)
BATCH_WITH_ATTEMPTS = tuple(_of("batch", column) for column in BATCH)
ATTEMPT = (
    Column("#", "number"),
    Column("epoch", "epoch"),
    Column("worker", "worker"),
    _time("armed_at", "armed"),
    _time("ended_at", "ended"),
    Column("outcome", "outcome"),
    Column("reason", "reason"),
    Column("HTTP", "http_status"),
)
PLAN = (
    Column("batches", "batches"),
    Column("recipients", "recipients"),
    Column("there are more", "has_more"),
)
EXCLUDED = (Column("why", "exclusion"), Column("batches", "batches"))
RESOLVED = (Column("resolved", "resolved"), Column("left as they are", "left"))
RATE_LIMIT = (
    Column("scope", "scope"),
    Column("key", "key"),
    Column("requests", "max_requests"),
    Column("messages", "max_messages"),
    Column("window (s)", "window"),
)
