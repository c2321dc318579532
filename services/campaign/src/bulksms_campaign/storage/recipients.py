"""Recipient rows: the snapshot, its hand-over in phone order, lists and recounts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.audiences import Audience
from bulksms_campaign.domain.counters import Counters, Transition, contribution
from bulksms_campaign.domain.recipients import Fact, RecipientStatus
from bulksms_campaign.storage.audiences import NOT_OPTED_OUT, selected_contacts
from bulksms_campaign.storage.plans import hash_joins, hashed_joins
from servicekit.bulk import execute_long, raw

SNAPSHOT_LIMIT = timedelta(minutes=10)
SCAN_ROWS = 10_000
"""A filtered page looks at this many rows at most, so that a rare status does not read a whole campaign."""


class RecipientRow(NamedTuple):
    """A recipient as stored."""

    phone: int
    facts: Fact
    reason: str
    description: str
    provider_message_id: str
    updated_at: datetime
    enqueue_number: int


async def insert_snapshot(
    connection: AsyncConnection,
    tenant_id: str,
    campaign_id: UUID,
    audience: Audience,
    enqueue_number: int,
    variable_names: Sequence[str],
    now: datetime,
) -> int:
    """Copy the audience, less opt-outs, into recipients in phone order; returns how many. One statement.

    `variable_names` are columns of contacts; without any, no array is stored.
    """
    selected, arguments = selected_contacts(audience)
    first = len(arguments) + 2
    variables = f"ARRAY[{', '.join(f'c.{name}' for name in variable_names)}]" if variable_names else "NULL"
    async with hashed_joins(await raw(connection)):
        return await execute_long(
            connection,
            "INSERT INTO recipients (tenant_id, campaign_id, phone, updated_at, enqueue_number, variables)"
            f" SELECT $1, ${first}, c.phone, ${first + 2}::timestamptz, ${first + 1}::integer, {variables}"
            f" {selected} AND {NOT_OPTED_OUT} ORDER BY c.phone",
            tenant_id,
            *arguments,
            campaign_id,
            enqueue_number,
            now,
            limit=SNAPSHOT_LIMIT,
        )


async def remove_newest(
    connection: AsyncConnection, tenant_id: str, campaign_id: UUID, audience: Audience, excess: int
) -> int:
    """Take the `excess` recipients out that joined the audience last, as contact or as member of its groups."""
    async with hashed_joins(await raw(connection)):
        return await execute_long(
            connection,
            """
            DELETE FROM recipients WHERE tenant_id = $2 AND campaign_id = $1 AND phone IN (
                SELECT r.phone FROM recipients r
                LEFT JOIN contacts c ON c.tenant_id = $2 AND c.phone = r.phone
                LEFT JOIN LATERAL (
                    SELECT min(g.added_at) AS added_at FROM contact_groups g
                    WHERE g.tenant_id = $2 AND g.group_name = ANY($3::text[]) AND g.phone = r.phone
                ) m ON true
                WHERE r.tenant_id = $2 AND r.campaign_id = $1
                ORDER BY greatest(c.created_at, m.added_at) DESC NULLS FIRST, r.phone DESC
                LIMIT $4
            )
            """,
            campaign_id,
            tenant_id,
            list(audience.groups),
            excess,
            limit=SNAPSHOT_LIMIT,
        )


async def read_chunk(
    connection: AsyncConnection, tenant_id: str, campaign_id: UUID, enqueue_number: int, after: int, limit: int
) -> tuple[list[int], list[str]]:
    """Phones of one enqueue above `after`, ascending, and their variables' values, phone by phone."""
    driver = await raw(connection)
    rows = await driver.fetch(
        "SELECT phone, variables FROM recipients"
        " WHERE tenant_id = $5 AND campaign_id = $1 AND phone > $2 AND enqueue_number = $3 ORDER BY phone LIMIT $4",
        campaign_id,
        after,
        enqueue_number,
        limit,
        tenant_id,
    )
    return [row[0] for row in rows], [value for row in rows for value in row[1] or ()]


async def count_enqueued(connection: AsyncConnection, tenant_id: str, campaign_id: UUID, enqueue_number: int) -> int:
    """Recipients of one enqueue."""
    driver = await raw(connection)
    counted: int = await driver.fetchval(
        "SELECT count(*) FROM recipients WHERE tenant_id = $1 AND campaign_id = $2 AND enqueue_number = $3",
        tenant_id,
        campaign_id,
        enqueue_number,
    )
    return counted


async def cancel_queued(
    connection: AsyncConnection, tenant_id: str, campaign_id: UUID, after: int, limit: int, now: datetime
) -> tuple[int, int]:
    """Make some QUEUED recipients above `after` CANCELLED; returns (highest phone looked at or 0, how many)."""
    driver = await raw(connection)
    reached: int = await driver.fetchval(
        "SELECT coalesce(max(phone), 0) FROM (SELECT phone FROM recipients"
        " WHERE tenant_id = $4 AND campaign_id = $1 AND phone > $2 ORDER BY phone LIMIT $3) r",
        campaign_id,
        after,
        limit,
        tenant_id,
    )
    tag: str = await driver.execute(
        "UPDATE recipients SET facts = $4, status = $5, reason = 'CANCELLED', updated_at = $6"
        " WHERE tenant_id = $7 AND campaign_id = $1 AND phone > $2 AND phone <= $3 AND facts = 0",
        campaign_id,
        after,
        reached,
        int(Fact.CANCELLED),
        int(RecipientStatus.CANCELLED),
        now,
        tenant_id,
    )
    return reached, int(tag.rpartition(" ")[2])


_FAILED_AGAIN = f"""
    FROM recipients r
    WHERE r.tenant_id = $2 AND r.campaign_id = $1 AND r.status = {int(RecipientStatus.FAILED)}
      AND NOT EXISTS (SELECT FROM opt_outs o WHERE o.tenant_id = $2 AND o.phone = r.phone)
"""


async def count_failed(driver: Any, tenant_id: str, campaign_id: UUID) -> int:
    """Recipients that RetryFailedRecipients would send to again; asked on asyncpg's connection."""
    counted: int = await driver.fetchval(f"SELECT count(*) {_FAILED_AGAIN}", campaign_id, tenant_id)
    return counted


async def requeue_failed(
    connection: AsyncConnection, tenant_id: str, campaign_id: UUID, enqueue_number: int, limit: int, now: datetime
) -> list[Transition]:
    """Make FAILED recipients that have not opted out QUEUED again under a new enqueue, in phone order, at most `limit`.

    Everything known of their earlier try goes, except how often the provider accepted a message for them.
    """
    driver = await raw(connection)
    await hash_joins(driver)
    rows = await driver.fetch(
        f"""
        WITH again AS (
            SELECT r.phone, r.facts {_FAILED_AGAIN} ORDER BY r.phone LIMIT $4 FOR NO KEY UPDATE OF r
        ), requeued AS (
            UPDATE recipients r SET
                accepted_before = r.accepted_before + (r.facts & {int(Fact.ACCEPTED)}), facts = 0, epoch = 0,
                status = {int(RecipientStatus.QUEUED)},
                enqueue_number = $3, provider_message_id = NULL, reason = NULL, description = NULL,
                report_description = NULL, updated_at = $5
            FROM again a WHERE r.tenant_id = $2 AND r.campaign_id = $1 AND r.phone = a.phone
            RETURNING a.facts
        )
        SELECT facts, count(*) FROM requeued GROUP BY facts
        """,
        campaign_id,
        tenant_id,
        enqueue_number,
        limit,
        now,
        timeout=SNAPSHOT_LIMIT.total_seconds(),
    )
    return [Transition(Fact(row[0]), Fact.NONE, row[1]) for row in rows]


async def list_recipients(
    connection: AsyncConnection,
    tenant_id: str,
    campaign_id: UUID,
    status: RecipientStatus | None,
    after: int,
    limit: int,
) -> tuple[list[RecipientRow], int | None]:
    """A page in phone order and where the next one starts; None when this is the last.

    With a status the page may be shorter, or empty, and still not be the last.
    """
    driver = await raw(connection)
    scan = limit + 1 if status is None else max(SCAN_ROWS, limit + 1)
    rows = await driver.fetch(
        """
        WITH scanned AS MATERIALIZED (
            SELECT * FROM recipients
            WHERE tenant_id = $6 AND campaign_id = $1 AND phone > $2 ORDER BY phone LIMIT $3
        ), reached AS (SELECT max(phone) AS phone, count(*) AS rows FROM scanned)
        SELECT s.phone, s.facts, s.reason, s.description, s.report_description, s.provider_message_id, s.updated_at,
            s.enqueue_number, reached.phone AS reached_phone, reached.rows AS scanned_rows
        FROM reached LEFT JOIN scanned s ON $4::smallint IS NULL OR s.status = $4
        ORDER BY s.phone LIMIT $5
        """,
        campaign_id,
        after,
        scan,
        status,
        limit + 1,
        tenant_id,
    )
    page = [_recipient(row) for row in rows if row["phone"] is not None]
    if len(page) > limit:
        return page[:limit], page[limit - 1].phone
    return page, rows[0]["reached_phone"] if rows[0]["scanned_rows"] == scan else None


async def recount(connection: AsyncConnection, tenant_id: str, campaign_id: UUID) -> Counters:
    """The counters as the rows have them."""
    driver = await raw(connection)
    rows = await driver.fetch(
        "SELECT facts, count(*), sum(accepted_before) FROM recipients"
        " WHERE tenant_id = $2 AND campaign_id = $1 GROUP BY facts",
        campaign_id,
        tenant_id,
        timeout=SNAPSHOT_LIMIT.total_seconds(),
    )
    counted = Counters()
    for facts, recipients, accepted_before in rows:
        counted = counted.plus(contribution(Fact(facts)), recipients).plus(Counters(accepted=1), accepted_before)
    return counted.plus(Counters(total=sum(row[1] for row in rows)))


def _recipient(row: Any) -> RecipientRow:
    facts = Fact(row["facts"])
    reported = facts & (Fact.NOT_DELIVERED | Fact.EXPIRED)
    return RecipientRow(
        phone=row["phone"],
        facts=facts,
        reason=row["reason"] or "",
        description=(row["report_description"] if reported else row["description"]) or "",
        provider_message_id=row["provider_message_id"] or "",
        updated_at=row["updated_at"],
        enqueue_number=row["enqueue_number"],
    )
