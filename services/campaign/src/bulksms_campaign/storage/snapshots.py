"""Snapshots: people copied into recipients of an enqueue, each at a position, and the digest of who stands where.

Statements about one enqueue take its key as $1 to $4: ranges of the primary key, on one day.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.audiences import Audience
from bulksms_campaign.domain.enqueues import EnqueueKey
from bulksms_campaign.domain.recipients import UNITS, RecipientStatus
from bulksms_campaign.storage.audiences import NOT_OPTED_OUT, selected_contacts
from bulksms_campaign.storage.plans import hash_joins, hashed_joins
from servicekit.bulk import execute_long, fetch_long, raw

SNAPSHOT_LIMIT = timedelta(minutes=10)

_OF_ENQUEUE = "tenant_id = $1 AND campaign_id = $2 AND enqueue_number = $3 AND launched_on = $4"


async def insert_snapshot(
    connection: AsyncConnection, key: EnqueueKey, audience: Audience, variable_names: Sequence[str], now: datetime
) -> int:
    """Copy the audience, less opt-outs, into recipients in phone order; returns how many. One statement.

    `variable_names` are columns of contacts; without any, no array is stored.
    """
    selected, arguments = selected_contacts(audience, 6)
    variables = f"ARRAY[{', '.join(f'c.{name}' for name in variable_names)}]" if variable_names else "NULL"
    async with hashed_joins(await raw(connection)):
        return await execute_long(
            connection,
            f"""
            INSERT INTO recipients
                (tenant_id, campaign_id, enqueue_number, launched_on, phone, position, units, updated_at, variables)
            SELECT $1, $2, $3, $4, c.phone, row_number() OVER (ORDER BY c.phone) - 1, {UNITS}, $5, {variables}
            {selected} AND {NOT_OPTED_OUT} ORDER BY c.phone
            """,
            *key,
            now,
            *arguments,
            limit=SNAPSHOT_LIMIT,
        )


async def remove_newest(connection: AsyncConnection, key: EnqueueKey, audience: Audience, excess: int) -> int:
    """Take the `excess` recipients out that joined the audience last, as contact or as member of its groups.

    The positions of the others close up.
    """
    async with hashed_joins(await raw(connection)):
        removed = await execute_long(connection, _REMOVE, *key, list(audience.groups), excess, limit=SNAPSHOT_LIMIT)
        await execute_long(connection, _CLOSE_UP, *key, limit=SNAPSHOT_LIMIT)
    return removed


_REMOVE = f"""
    DELETE FROM recipients WHERE {_OF_ENQUEUE} AND phone IN (
        SELECT r.phone FROM recipients r
        LEFT JOIN contacts c ON c.tenant_id = $1 AND c.phone = r.phone
        LEFT JOIN LATERAL (
            SELECT min(g.added_at) AS added_at FROM contact_groups g
            WHERE g.tenant_id = $1 AND g.group_name = ANY($5::text[]) AND g.phone = r.phone
        ) m ON true
        WHERE r.tenant_id = $1 AND r.campaign_id = $2 AND r.enqueue_number = $3 AND r.launched_on = $4
        ORDER BY greatest(c.created_at, m.added_at) DESC NULLS FIRST, r.phone DESC
        LIMIT $6
    )
"""

_CLOSE_UP = f"""
    UPDATE recipients r SET position = n.position
    FROM (
        SELECT phone, row_number() OVER (ORDER BY phone) - 1 AS position FROM recipients WHERE {_OF_ENQUEUE}
    ) n
    WHERE r.tenant_id = $1 AND r.campaign_id = $2 AND r.enqueue_number = $3 AND r.launched_on = $4
        AND r.phone = n.phone AND r.position <> n.position
"""


# Of each person the latest row.
_FAILED = f"""
    FROM recipients r
    WHERE r.tenant_id = $1 AND r.campaign_id = $2 AND r.status = {int(RecipientStatus.FAILED)} AND NOT r.superseded
      AND NOT EXISTS (SELECT FROM opt_outs o WHERE o.tenant_id = $1 AND o.phone = r.phone)
"""

# Locked in the order of the primary key, as by everybody who locks several.
_COPY_FAILED = f"""
    WITH failed AS (
        SELECT r.enqueue_number, r.launched_on, r.phone, r.variables {_FAILED}
        ORDER BY r.enqueue_number, r.phone LIMIT $6 FOR NO KEY UPDATE OF r
    ), superseded AS (
        UPDATE recipients r SET superseded = true FROM failed f
        WHERE r.tenant_id = $1 AND r.campaign_id = $2 AND r.enqueue_number = f.enqueue_number AND r.phone = f.phone
          AND r.launched_on = f.launched_on
        RETURNING r.enqueue_number, r.launched_on
    ), again AS (
        INSERT INTO recipients
            (tenant_id, campaign_id, enqueue_number, launched_on, phone, position, units, updated_at, variables)
        SELECT $1, $2, $3, $4, phone, row_number() OVER (ORDER BY phone) - 1, {UNITS}, $5, variables
        FROM failed ORDER BY phone
    )
    SELECT enqueue_number, launched_on, count(*) FROM superseded GROUP BY 1, 2 ORDER BY 1
"""


async def count_failed(driver: Any, tenant_id: str, campaign_id: UUID) -> int:
    """Recipients that RetryFailedRecipients would send to again; asked on asyncpg's connection."""
    number: int = await driver.fetchval(f"SELECT count(*) {_FAILED}", tenant_id, campaign_id)
    return number


async def copy_failed(
    connection: AsyncConnection, key: EnqueueKey, limit: int, now: datetime
) -> list[tuple[EnqueueKey, int]]:
    """Make rows of a new enqueue for FAILED recipients that have not opted out, at most `limit`.

    Their earlier rows stay as they are, but superseded; returns how many of which enqueue.
    """
    await hash_joins(await raw(connection))
    rows = await fetch_long(connection, _COPY_FAILED, *key, now, limit, limit=SNAPSHOT_LIMIT)
    return [(EnqueueKey(key.tenant_id, key.campaign_id, row[0], row[1]), row[2]) for row in rows]


# Sums of two hashes of each person and place, independent of each other and of the order in which rows are read: 128
# bits. Two people who change places change them, since each is hashed together with the place.
_DIGEST = f"""
    SELECT sha256(convert_to(concat_ws(':', count(*), coalesce(sum(hashint8extended(phone, position)), 0),
                                       coalesce(sum(hashint8extended(position, phone)), 0)), 'UTF8'))
    FROM recipients WHERE {_OF_ENQUEUE}
"""


async def read_digest(connection: AsyncConnection, key: EnqueueKey) -> bytes:
    """The digest of which phone stands at which position: one pass over the rows, whatever their number."""
    ((digest,),) = await fetch_long(connection, _DIGEST, *key, limit=SNAPSHOT_LIMIT)
    assert isinstance(digest, bytes)  # noqa: S101
    return digest
