"""Recipient rows: their hand-over in phone order, lists and recounts.

Statements about one enqueue take its key as $1 to $4: ranges of the primary key, on one day.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.counters import Counters, counted
from bulksms_campaign.domain.enqueues import Chunk, EnqueueKey
from bulksms_campaign.domain.recipients import Fact, RecipientStatus, description_of
from servicekit.bulk import fetch_long, raw

RECOUNT_LIMIT = timedelta(minutes=10)
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
    units: int


class RecipientFilter(NamedTuple):
    """Which recipients to list."""

    status: RecipientStatus | None
    enqueue_numbers: Sequence[int]
    superseded: bool
    """Also those that a later enqueue sends to again?"""

    @property
    def scanned_rows(self) -> int:
        """How many rows to look at for a page, which all of them may be on; 0 when they are."""
        everything = self.status is None and (self.superseded or len(self.enqueue_numbers) == 1)
        return 0 if everything else SCAN_ROWS


_OF_ENQUEUE = "tenant_id = $1 AND campaign_id = $2 AND enqueue_number = $3 AND launched_on = $4"


async def read_chunk(connection: AsyncConnection, key: EnqueueKey, after: int, limit: int) -> Chunk | None:
    """The recipients of one enqueue above `after`, ascending; None when there are no more."""
    driver = await raw(connection)
    rows = await driver.fetch(
        f"""
        SELECT position, phone, variables FROM recipients
        WHERE {_OF_ENQUEUE} AND phone > $5 ORDER BY phone LIMIT $6
        """,
        *key,
        after,
        limit,
    )
    if not rows:
        return None
    return Chunk(rows[0][0], [row[1] for row in rows], [value for row in rows for value in row[2] or ()])


async def count_enqueued(connection: AsyncConnection, key: EnqueueKey) -> int:
    """Recipients of one enqueue: by the last position."""
    driver = await raw(connection)
    last: int | None = await driver.fetchval(
        f"SELECT position FROM recipients WHERE {_OF_ENQUEUE} ORDER BY phone DESC LIMIT 1", *key
    )
    return 0 if last is None else last + 1


async def cancel_queued(
    connection: AsyncConnection, key: EnqueueKey, after: int, limit: int, now: datetime
) -> tuple[int, int]:
    """Make some QUEUED recipients above `after` CANCELLED; returns (highest phone looked at or 0, how many)."""
    driver = await raw(connection)
    reached: int = await driver.fetchval(
        f"""
        SELECT coalesce(max(phone), 0) FROM (
            SELECT phone FROM recipients WHERE {_OF_ENQUEUE} AND phone > $5 ORDER BY phone LIMIT $6
        ) r
        """,
        *key,
        after,
        limit,
    )
    tag: str = await driver.execute(
        f"""
        UPDATE recipients
        SET facts = {int(Fact.CANCELLED)}, status = {int(RecipientStatus.CANCELLED)}, updated_at = $7
        WHERE {_OF_ENQUEUE} AND phone > $5 AND phone <= $6 AND facts = {int(Fact.NONE)}
        """,
        *key,
        after,
        reached,
        now,
    )
    return reached, int(tag.rpartition(" ")[2])


# The latest row of a person comes first, so that a page never ends between it and one that is superseded.
_LIST = """
    WITH scanned AS MATERIALIZED (
        SELECT r.* FROM unnest($3::integer[]) AS n (enqueue_number)
        CROSS JOIN LATERAL (
            SELECT * FROM recipients
            WHERE tenant_id = $1 AND campaign_id = $2 AND enqueue_number = n.enqueue_number AND phone > $4
            ORDER BY phone LIMIT $5
        ) r
        ORDER BY r.phone, r.enqueue_number DESC LIMIT $5
    ), reached AS (SELECT max(phone) AS phone, count(*) AS rows FROM scanned)
    SELECT s.phone, s.facts, s.reason, s.description, s.report_description, s.provider_message_id, s.updated_at,
        s.enqueue_number, s.units, reached.phone AS reached_phone, reached.rows AS scanned_rows
    FROM reached LEFT JOIN scanned s ON ($6::smallint IS NULL OR s.status = $6) AND ($7 OR NOT s.superseded)
    ORDER BY s.phone LIMIT $8
"""


async def list_recipients(
    connection: AsyncConnection, tenant_id: str, campaign_id: UUID, chosen: RecipientFilter, after: int, limit: int
) -> tuple[list[RecipientRow], int | None]:
    """A page in phone order and where the next one starts; None when this is the last.

    With a filter the page may be shorter, or empty, and still not be the last.
    """
    driver = await raw(connection)
    scan = max(chosen.scanned_rows, limit + 1)
    arguments = (list(chosen.enqueue_numbers), after, scan, chosen.status, chosen.superseded, limit + 1)
    rows = await driver.fetch(_LIST, tenant_id, campaign_id, *arguments)
    page = [_recipient(row) for row in rows if row["phone"] is not None]
    if len(page) > limit:
        return page[:limit], page[limit - 1].phone
    return page, rows[0]["reached_phone"] if rows[0]["scanned_rows"] == scan else None


async def recount(connection: AsyncConnection, tenant_id: str, campaign_id: UUID) -> Counters:
    """The counters as the rows have them."""
    rows = await fetch_long(
        connection,
        """
        SELECT facts, superseded, count(*), sum(units) FROM recipients
        WHERE tenant_id = $1 AND campaign_id = $2 GROUP BY facts, superseded
        """,
        tenant_id,
        campaign_id,
        limit=RECOUNT_LIMIT,
    )
    counters = Counters()
    for facts, superseded, recipients, units in rows:
        counters = counters.plus(counted(Fact(facts), recipients, units, superseded=superseded))
    return counters


def _recipient(row: Any) -> RecipientRow:
    facts = Fact(row["facts"])
    return RecipientRow(
        phone=row["phone"],
        facts=facts,
        reason=row["reason"] or "",
        description=description_of(facts, row["description"] or "", row["report_description"] or ""),
        provider_message_id=row["provider_message_id"] or "",
        updated_at=row["updated_at"],
        enqueue_number=row["enqueue_number"],
        units=row["units"],
    )
