"""Keys that last: the tenant is in every key and statement, or the reason why not stands here."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import pytest
from sqlalchemy import TextClause, text

import bulksms_dispatcher.storage
from servicekit.database import Database

# Key → why it spans tenants, or is of none.
KEYS_WITHOUT_TENANT = {
    "provider_responses_bulk_id": "the provider's bulk ids are one space: given out twice, to whomever, is a mix-up",
    "provider_responses_first_message_id": "the provider's message ids are one space",
    "messages_provider_id": "the provider's message ids are one space",
    "evidence_pkey": "the provider's message ids are one space, and whose this one is, is what is looked for",
    "operator_actions_pkey": "an operator's request id is used once, for a batch of whatever tenant",
    "workers_pkey": "of processes",
    "resolution_plans_pkey": "a plan is of batches of whatever tenants",
    "stops_pkey": "of scopes: a traffic account, a tenant, everything",
    "rate_limits_pkey": "of scopes: a traffic account, a tenant, everything",
    "batch_sizes_pkey": "of traffic accounts",
    "schema_version_pkc": "of the migrations",
}

_ACROSS = "work of all tenants is claimed: "
_BY_ID = "named by its id alone, which is unique: "
_ACCOUNT = "one traffic account serves all tenants: "
# Statement of storage → why it names no tenant.
STATEMENTS_WITHOUT_TENANT = {
    "account_holds._READ": _ACCOUNT + "what holds it concerns them all",
    "account_holds._READ_NOW": "the database's clock",
    "batch_sizes._READ": "of a traffic account",
    "batch_sizes._GROW": "of a traffic account",
    "batch_sizes._SHRINK": "of a traffic account",
    "workers._BEAT": "of a process",
    "workers._FORGET": "of a process",
    "workers._REMOVE": "of a process",
    "resolution_plans._NOW": "the database's clock",
    "resolution_plans._FORGET": "plans of all tenants",
    "resolution_plans._FIND": "a plan is of batches of whatever tenants",
    "stops._LOCK": "whoever arms, of whatever tenant, is waited for",
    "stops._INSERT": "a stop is of a scope and its key, which may be a tenant",
    "stops._REMOVE": "a stop is of a scope and its key, which may be a tenant",
    "stops._READ_ALL": "the stops of all scopes",
    "stops._COUNT_ARMED": "a stop is of a scope and its key, which may be a tenant",
    "limits._READ": "the limits of all scopes",
    "limits._SAVE": "a limit is of a scope and its key, which may be a tenant",
    "claims._LANES": _ACROSS + "lanes",
    "claims._LEASED": _ACROSS + "what a worker has under lease",
    "late_batches._FAIL_LATE": _ACROSS + "batches whose time is over",
    "late_batches._FAIL_STRANDED": _ACROSS + "batches in an outage",
    "late_batches._IS_IN_OUTAGE": _ACCOUNT + "is it held for long?",
    "leases._EXPIRED": _ACROSS + "leases that ran out",
    "leases._AMBIGUOUS": _ACROSS + "batches past the horizon",
    "outbox._TAKE_PLAIN": _ACROSS + "the outbox",
    "outbox._TAKE_WITH_RECIPIENTS": _ACROSS + "the outbox",
    "outbox._ACKNOWLEDGE": "entries taken in one round are of several tenants",
    "outbox._POSTPONE": "entries taken in one round are of several tenants",
    "outbox._GIVE_UP": "entries taken in one round are of several tenants",
    "outbox._RELEASE": "entries taken in one round are of several tenants",
    "outbox._COUNT": "a figure of the whole queue",
    "report_refreshes._TAKE": _ACROSS + "refreshes",
    "messages._FIND_ABANDONED": _ACROSS + "messages whose caller died",
    "messages._REPORTS": "reports name the provider's ids, which are one space",
    "retention._DOOMED": _ACROSS + "old batches",
    "retention._DELETE_EVIDENCE": _ACROSS + "old evidence",
    "submissions._BACKLOG": "the backlog limit is of the whole queue",
    "evidence._COUNT_OPEN": "the bound is of the whole table",
    "evidence._NOTE": "of whatever tenant: that is what is looked for",
    "evidence._TAKE": _ACROSS + "evidence",
    "evidence._POSTPONE": "by the provider's id",
    "evidence._GIVE_UP": "by the provider's id",
    "evidence._SAVE_PROVIDER_RECORD": "by the provider's id",
    "evidence._INDISTINGUISHABLE": _ACCOUNT + "reports of one number and text",
    "provider_responses._RECENT_IDS": _ACCOUNT + "ids given out before the start",
    "provider_responses._GAVE_OUT": _ACCOUNT + "was this id given out before?",
    "unresolved._ARE_THERE_ANY": _ACCOUNT + "may a report be of an unresolved batch?",
    "unresolved._FIND_NEARBY": _ACCOUNT + "the batches a report may be of",
    "unresolved._LOCK": _BY_ID + "by an operator, and by evidence",
    "attempts._LIST": _BY_ID + "by an operator",
    "queue._FIND": _BY_ID + "by an operator",
    "operator_actions._FIND": "an operator's request id is used once, for a batch of whatever tenant",
    "recovery._OPEN": _BY_ID + "in the journal",
    "recovery._SENT": _BY_ID + "in the journal",
}


@pytest.mark.parametrize(
    ("what", "query"),
    [
        (
            "primary keys, unique keys and unique indexes",
            """
            SELECT c.relname, array_agg(a.attname) FROM pg_index i
            JOIN pg_class c ON c.oid = i.indexrelid
            JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey)
            WHERE i.indisunique AND c.relnamespace = 'public'::regnamespace GROUP BY c.relname
            """,
        ),
        (
            "foreign keys",
            """
            SELECT k.conname, array_agg(a.attname) FROM pg_constraint k
            JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = ANY(k.conkey)
            WHERE k.contype = 'f' AND k.connamespace = 'public'::regnamespace GROUP BY k.conname
            """,
        ),
    ],
    ids=["keys", "foreign keys"],
)
async def test_the_tenant_is_in_every_key_of_every_table_or_the_reason_why_not_is_written(
    database: Database, what: str, query: str
) -> None:
    async with database.connect() as connection:
        columns = {row[0]: set(row[1]) for row in await connection.execute(text(query))}
    assert len(columns) > 5, what
    without = {key for key, names in columns.items() if "tenant_id" not in names}
    expected = set(KEYS_WITHOUT_TENANT) if what != "foreign keys" else set()
    assert without == expected


async def test_every_key_that_spans_tenants_says_so_to_whoever_reads_the_schema(database: Database) -> None:
    async with database.connect() as connection:
        comments = {
            row[0]: row[1] or ""
            for row in await connection.execute(
                text("SELECT relname, obj_description(oid, 'pg_class') FROM pg_class WHERE relkind = 'i'")
            )
        }
    for key in ("provider_responses_bulk_id", "messages_provider_id"):
        assert "tenant" in comments[key]


def statements() -> Iterator[tuple[str, str]]:
    """Every statement of storage, by module and name."""
    for module in pkgutil.iter_modules(bulksms_dispatcher.storage.__path__):
        loaded = importlib.import_module(f"bulksms_dispatcher.storage.{module.name}")
        for name, value in vars(loaded).items():
            if isinstance(value, TextClause):
                yield f"{module.name}.{name}", value.text


def test_every_statement_names_the_tenant_or_the_reason_why_not_is_written() -> None:
    found = dict(statements())
    assert len(found) > 60
    without = {name for name, statement in found.items() if ":tenant_id" not in statement}
    assert without == set(STATEMENTS_WITHOUT_TENANT)
