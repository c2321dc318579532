"""Results: facts about many recipients at once, and the counters' movement, in one statement each.

Lock order: recipients by (tenant, campaign, phone), then counters by (tenant, campaign), then tasks; so calls that
touch the same rows wait for each other and never deadlock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.counters import Transition
from bulksms_campaign.domain.recipients import LASTING, Fact
from bulksms_campaign.domain.results import MessageReport, OutcomeGroup
from bulksms_campaign.storage.folding import recorded_epoch_sql, recorded_facts_sql, status_sql, strength_sql
from servicekit.bulk import raw


class BatchRow(NamedTuple):
    """A batch of the dispatcher as it was last reported."""

    tenant_id: str
    batch_id: UUID
    campaign_id: UUID
    first_phone: int
    last_phone: int
    epoch: int
    enqueue_number: int
    bulk_id: str
    traceparent: str


class TouchedBatch(NamedTuple):
    """A batch that delivery reports were about."""

    batch_id: UUID
    campaign_id: UUID
    bulk_id: str
    traceparent: str
    reports: int


# The reported facts as rows, the recipients locked in phone order, the fold, the rows that change, and how many went
# from which facts to which. `$4` and `$5` bound both scans to the batch's range of the primary key, which is what makes
# hash joins (see _PLAN_FOR_RANGES) right whatever the planner believes. A reason belongs to the strongest dispatcher
# fact of the latest epoch; of two equally strong ones the greater text, so that order is nothing.
_RECORD = f"""
    WITH reported AS (
        SELECT * FROM unnest($6::bigint[], $7::smallint[], $8::text[], $9::text[], $10::text[])
            AS t (phone, fact, provider_message_id, reason, description)
    ), locked AS (
        SELECT r.phone, r.facts, r.epoch, r.reason, r.description, r.provider_message_id, t.fact,
               t.provider_message_id AS new_message_id, t.reason AS new_reason, t.description AS new_description
        FROM recipients r JOIN reported t ON t.phone = r.phone
        WHERE r.tenant_id = $11 AND r.campaign_id = $1 AND r.phone BETWEEN $4 AND $5 AND r.enqueue_number = $2
        ORDER BY r.phone FOR NO KEY UPDATE OF r
    ), folded AS (
        SELECT phone, facts AS old_facts, epoch AS old_epoch, provider_message_id, new_message_id,
               {recorded_facts_sql("facts", "epoch", "fact", "$3::integer")} AS new_facts,
               {recorded_epoch_sql("epoch", "fact", "$3::integer")} AS new_epoch,
               reason, new_reason, description, new_description,
               CASE WHEN fact & {int(LASTING)} <> 0 OR $3 < epoch THEN -1
                    WHEN $3 > epoch THEN 1
                    ELSE sign({strength_sql("fact")} - {strength_sql("facts")}) END AS strength
        FROM locked
    ), changed AS (
        UPDATE recipients r SET
            facts = f.new_facts, epoch = f.new_epoch, status = {status_sql("f.new_facts")},
            provider_message_id = coalesce(f.new_message_id, f.provider_message_id),
            reason = CASE f.strength WHEN 1 THEN f.new_reason
                     WHEN 0 THEN greatest(f.reason, f.new_reason) ELSE f.reason END,
            description = CASE f.strength WHEN 1 THEN f.new_description
                          WHEN 0 THEN greatest(f.description, f.new_description) ELSE f.description END,
            updated_at = $12
        FROM folded f
        WHERE r.tenant_id = $11 AND r.campaign_id = $1 AND r.phone BETWEEN $4 AND $5 AND r.phone = f.phone
          AND (f.new_facts <> f.old_facts OR f.new_epoch <> f.old_epoch
               OR f.provider_message_id IS DISTINCT FROM coalesce(f.new_message_id, f.provider_message_id))
        RETURNING f.old_facts, f.new_facts
    )
    SELECT old_facts, new_facts, count(*) FROM changed GROUP BY old_facts, new_facts
"""

# The statistics of a table that has just grown by a snapshot are wrong, and a batch's join planned by them has taken
# 12 s instead of 0.05 s (nested loops, 5,000 × 5,000). So it is not left to them: ranges of the primary key, hashed.
_PLAN_FOR_RANGES = """
    SET LOCAL enable_nestloop = off;
    SET LOCAL enable_seqscan = off;
    SET LOCAL plan_cache_mode = force_custom_plan
"""

# Of whatever tenant: a report says no more than the provider's message id.
# LATERAL with OFFSET 0 is a fence: one look into the hash index per id, never a join with the whole table.
_FIND = """
    SELECT i.now, r.tenant_id, r.campaign_id, r.phone
    FROM (SELECT clock_timestamp() AS now) i LEFT JOIN (
        unnest($1::text[]) AS t (provider_message_id)
        CROSS JOIN LATERAL (
            SELECT tenant_id, campaign_id, phone FROM recipients
            WHERE provider_message_id = t.provider_message_id OFFSET 0
        ) r
    ) ON true
"""

# In the order given; a subquery that locks is a fence as well. Read again under the lock: that is what counts.
_LOCK = """
    SELECT r.phone, r.facts, r.provider_message_id, r.report_description
    FROM unnest($2::bigint[]) AS t (phone)
    CROSS JOIN LATERAL (
        SELECT * FROM recipients WHERE tenant_id = $3 AND campaign_id = $1 AND phone = t.phone FOR NO KEY UPDATE
    ) r
"""

# One table and an array of its key: there is no join to plan wrongly.
_REPORT = f"""
    UPDATE recipients SET
        facts = facts | $3::smallint, status = {status_sql("(facts | $3::smallint)")},
        report_description = greatest(report_description, $4::text), updated_at = $6
    WHERE tenant_id = $5 AND campaign_id = $1 AND phone = ANY($2::bigint[])
"""


async def record_outcomes(
    connection: AsyncConnection, batch: BatchRow, groups: Sequence[OutcomeGroup], now: datetime
) -> tuple[list[Transition], int]:
    """Record a batch's outcomes; returns how recipients changed, and how many rows were written."""
    phones = [phone for group in groups for phone in group.phones]
    if not phones:
        return [], 0
    sizes = [(group, len(group.phones)) for group in groups]
    driver = await raw(connection)
    await driver.execute(_PLAN_FOR_RANGES)
    rows = await driver.fetch(
        _RECORD,
        batch.campaign_id,
        batch.enqueue_number,
        batch.epoch,
        min(phones),
        max(phones),
        phones,
        [int(group.fact) for group, size in sizes for _ in range(size)],
        [item for group, size in sizes for item in _ids_or_none(group)],
        [group.reason or None for group, size in sizes for _ in range(size)],
        [group.description or None for group, size in sizes for _ in range(size)],
        batch.tenant_id,
        now,
    )
    return [Transition(Fact(row[0]), Fact(row[1]), row[2]) for row in rows], sum(row[2] for row in rows)


def _ids_or_none(group: OutcomeGroup) -> Sequence[str | None]:
    return group.provider_message_ids or [None] * len(group.phones)


class ReportedRecipient(NamedTuple):
    """A recipient that a report changed."""

    tenant_id: str
    campaign_id: UUID
    phone: int


class RecordedReports(NamedTuple):
    """What reports did: known message ids, changes by (tenant, campaign), the changed recipients, and when."""

    known: set[str]
    transitions: dict[tuple[str, UUID], list[Transition]]
    changed: list[ReportedRecipient]
    now: datetime


async def record_reports(
    connection: AsyncConnection, reports: Mapping[str, MessageReport], tenant_id: str = ""
) -> RecordedReports:
    """Record delivery reports by message id; with a tenant, other tenants' messages are as good as unknown."""
    driver = await raw(connection)
    phones: dict[tuple[str, UUID], list[int]] = {}
    found = await driver.fetch(_FIND, list(reports))
    recorded = RecordedReports(set(), {}, [], found[0]["now"])
    for _, owner, campaign_id, phone in found:
        if owner is not None and tenant_id in {"", owner}:
            phones.setdefault((owner, campaign_id), []).append(phone)
    for key in sorted(phones):
        rows = await driver.fetch(_LOCK, key[1], sorted(phones[key]), key[0])
        moves, writes = _fold_reports(rows, reports, recorded.known)
        for (fact, description), written in writes.items():
            await driver.execute(_REPORT, key[1], written, fact, description, key[0], recorded.now)
            recorded.changed.extend(ReportedRecipient(*key, phone) for phone in written)
        if moves:
            recorded.transitions[key] = [Transition(Fact(old), Fact(new), n) for (old, new), n in moves.items()]
    return recorded


_Write = tuple[int, str | None]
"""(facts to add, description of a failure)"""


def _fold_reports(
    rows: Sequence[Any], reports: Mapping[str, MessageReport], known: set[str]
) -> tuple[dict[tuple[int, int], int], dict[_Write, list[int]]]:
    """How many recipients go from which facts to which, and which rows are to be written with what."""
    moves: dict[tuple[int, int], int] = {}
    writes: dict[_Write, list[int]] = {}
    for phone, facts, message_id, stored_description in rows:
        report = reports.get(message_id)
        if report is None:  # the recipient was queued again between the look and the lock
            continue
        known.add(message_id)
        added = int(report.facts)
        if facts | added != facts or report.description > (stored_description or ""):
            writes.setdefault((added, report.description or None), []).append(phone)
            moves[facts, facts | added] = moves.get((facts, facts | added), 0) + 1
    return moves, writes


# Bounded by a range of the primary key; no index knows the facts (they would make every result slower).
_AWAITED = f"""
    SELECT phone, provider_message_id FROM recipients
    WHERE tenant_id = $6 AND campaign_id = $1 AND phone > $2 AND phone <= $3 AND enqueue_number = $4
      AND provider_message_id IS NOT NULL AND facts & {int(Fact.ACCEPTED)} <> 0
      AND facts & {int(Fact.DELIVERED | Fact.NOT_DELIVERED | Fact.EXPIRED)} = 0
    ORDER BY phone LIMIT $5
"""


async def read_awaited(
    connection: AsyncConnection,
    tenant_id: str,
    campaign_id: UUID,
    enqueue_number: int,
    after: int,
    last: int,
    limit: int,
) -> list[tuple[int, str]]:
    """(phone, provider message id) of recipients that were accepted and have no final report, in phone order."""
    driver = await raw(connection)
    await driver.execute(_PLAN_FOR_RANGES)
    rows = await driver.fetch(_AWAITED, campaign_id, after, last, enqueue_number, limit, tenant_id)
    return [(row[0], row[1]) for row in rows]


# A later epoch's outcome replaces an earlier one's; the bulk id, once known, stays.
_UPSERT_BATCH = text("""
    INSERT INTO campaign_batches AS b
        (tenant_id, batch_id, campaign_id, first_phone, last_phone, epoch, enqueue_number, bulk_id, traceparent,
        recorded_at)
    VALUES (:tenant_id, :batch_id, :campaign_id, :first_phone, :last_phone, :epoch, :enqueue_number, :bulk_id,
        :traceparent, :recorded_at)
    ON CONFLICT (tenant_id, batch_id) DO UPDATE SET
        epoch = excluded.epoch, bulk_id = coalesce(nullif(excluded.bulk_id, ''), b.bulk_id),
        traceparent = coalesce(nullif(excluded.traceparent, ''), b.traceparent), recorded_at = excluded.recorded_at
    WHERE excluded.epoch >= b.epoch
""")


async def upsert_batch(connection: AsyncConnection, batch: BatchRow, now: datetime) -> None:
    """Remember a batch, for the traces of its delivery reports."""
    await connection.execute(_UPSERT_BATCH, {**batch._asdict(), "recorded_at": now})


# The batch whose range a phone is in. A batch may be split later, so ranges can overlap: the nearest start wins.
_BATCHES_OF = """
    SELECT b.batch_id, b.campaign_id, b.bulk_id, b.traceparent, count(*)
    FROM unnest($1::text[], $2::uuid[], $3::bigint[]) AS t (tenant_id, campaign_id, phone)
    CROSS JOIN LATERAL (
        SELECT * FROM campaign_batches b
        WHERE b.tenant_id = t.tenant_id AND b.campaign_id = t.campaign_id AND b.first_phone <= t.phone
        ORDER BY b.first_phone DESC LIMIT 1
    ) b
    WHERE b.last_phone >= t.phone
    GROUP BY 1, 2, 3, 4 LIMIT $4
"""


async def read_batches_of(
    connection: AsyncConnection, recipients: Sequence[ReportedRecipient], limit: int
) -> list[TouchedBatch]:
    """The batches some recipients were sent in, at most `limit`."""
    driver = await raw(connection)
    tenants, campaigns, phones = zip(*recipients, strict=True)
    rows = await driver.fetch(_BATCHES_OF, tenants, campaigns, phones, limit)
    return [TouchedBatch(*row) for row in rows]
