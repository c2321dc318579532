"""Results: facts about many recipients of one enqueue at once, in one statement.

Lock order, here and in `reports`: recipients in the order of their primary key, then counters in that of theirs, then
tasks; so calls that touch the same rows wait for each other and never deadlock.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.counters import Transition
from bulksms_campaign.domain.enqueues import EnqueueKey
from bulksms_campaign.domain.recipients import LASTING, REFUTING, Fact, RecipientStatus
from bulksms_campaign.domain.results import OutcomeGroup
from bulksms_campaign.storage.folding import recorded_epoch_sql, recorded_facts_sql, status_sql, strength_sql
from bulksms_campaign.storage.plans import plan_for_ranges
from servicekit.bulk import raw

# The reported facts as rows, the recipients locked in phone order, the fold, the rows that change, and how many went
# from which facts to which. $1 to $4 are the enqueue's key; $6 and $7 bound both scans to the batch's range of the
# primary key, which is what makes hash joins (see `plans`) right whatever the planner believes. A reason belongs to the
# strongest dispatcher fact of the latest epoch; of two equally strong ones the greater text, so that order is nothing.
_RECORD = f"""
    WITH reported AS (
        SELECT * FROM unnest($8::bigint[], $9::smallint[], $10::text[], $11::text[], $12::text[])
            AS t (phone, fact, provider_message_id, reason, description)
    ), locked AS (
        SELECT r.phone, r.facts, r.epoch, r.reason, r.description, r.provider_message_id, t.fact,
               t.provider_message_id AS new_message_id, t.reason AS new_reason, t.description AS new_description
        FROM recipients r JOIN reported t ON t.phone = r.phone
        WHERE r.tenant_id = $1 AND r.campaign_id = $2 AND r.enqueue_number = $3 AND r.launched_on = $4
          AND r.phone BETWEEN $6 AND $7
          AND NOT ($14 AND r.status = {int(RecipientStatus.UNCONFIRMED)} AND t.fact & {int(REFUTING)} <> 0)
        ORDER BY r.phone FOR NO KEY UPDATE OF r
    ), folded AS (
        SELECT phone, facts AS old_facts, epoch AS old_epoch, provider_message_id, new_message_id,
               {recorded_facts_sql("facts", "epoch", "fact", "$5::integer")} AS new_facts,
               {recorded_epoch_sql("epoch", "fact", "$5::integer")} AS new_epoch,
               reason, new_reason, description, new_description,
               CASE WHEN fact & {int(LASTING)} <> 0 OR $5 < epoch THEN -1
                    WHEN $5 > epoch THEN 1
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
            updated_at = $13
        FROM folded f
        WHERE r.tenant_id = $1 AND r.campaign_id = $2 AND r.enqueue_number = $3 AND r.launched_on = $4
          AND r.phone BETWEEN $6 AND $7 AND r.phone = f.phone
          AND (f.new_facts <> f.old_facts OR f.new_epoch <> f.old_epoch
               OR f.provider_message_id IS DISTINCT FROM coalesce(f.new_message_id, f.provider_message_id))
        RETURNING f.old_facts, f.new_facts, r.units, r.superseded
    )
    SELECT old_facts, new_facts, count(*), sum(units), superseded FROM changed GROUP BY 1, 2, 5
"""


async def record_outcomes(
    connection: AsyncConnection,
    key: EnqueueKey,
    epoch: int,
    groups: Sequence[OutcomeGroup],
    now: datetime,
    *,
    keep_unsure: bool = False,
) -> list[Transition]:
    """Record the outcomes of a batch's attempt; returns how the rows that were written changed.

    With `keep_unsure` whoever may have been sent to stays so, whatever is proved of this attempt.
    """
    phones = [phone for group in groups for phone in group.phones]
    if not phones:
        return []
    driver = await raw(connection)
    await plan_for_ranges(driver)
    rows = await driver.fetch(
        _RECORD, *key, epoch, min(phones), max(phones), phones, *_columns(groups), now, keep_unsure
    )
    return [Transition(Fact(row[0]), Fact(row[1]), *row[2:]) for row in rows]


def _columns(groups: Sequence[OutcomeGroup]) -> tuple[list[Any], ...]:
    """Fact, message id, reason and description for each phone of the groups."""
    sizes = [(group, len(group.phones)) for group in groups]
    return (
        [int(group.fact) for group, size in sizes for _ in range(size)],
        [item for group in groups for item in _ids_or_none(group)],
        [group.reason or None for group, size in sizes for _ in range(size)],
        [group.description or None for group, size in sizes for _ in range(size)],
    )


def _ids_or_none(group: OutcomeGroup) -> Sequence[str | None]:
    return group.provider_message_ids or [None] * len(group.phones)


# Bounded by a range of the primary key; no index knows the facts (they would make every result slower).
_AWAITED = f"""
    SELECT phone, provider_message_id FROM recipients
    WHERE tenant_id = $1 AND campaign_id = $2 AND enqueue_number = $3 AND launched_on = $4
      AND phone > $5 AND phone <= $6 AND provider_message_id IS NOT NULL AND facts & {int(Fact.ACCEPTED)} <> 0
      AND facts & {int(Fact.DELIVERED | Fact.NOT_DELIVERED | Fact.EXPIRED)} = 0
    ORDER BY phone LIMIT $7
"""


async def read_awaited(
    connection: AsyncConnection, key: EnqueueKey, after: int, last: int, limit: int
) -> list[tuple[int, str]]:
    """(phone, provider message id) of recipients that were accepted and have no final report, in phone order."""
    driver = await raw(connection)
    await plan_for_ranges(driver)
    rows = await driver.fetch(_AWAITED, *key, after, last, limit)
    return [(row[0], row[1]) for row in rows]
