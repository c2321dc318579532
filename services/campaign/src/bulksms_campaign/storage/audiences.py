"""Audiences in SQL: their sizes, looking at some of their contacts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

from bulksms_campaign.domain.audiences import Audience, AudienceSize
from bulksms_campaign.storage.audience_sizes import CountedSize, audience_id, lock_size, read_size, store_size
from bulksms_campaign.storage.plans import hash_joins, hashed_joins
from servicekit import statement_spans

COUNT_LIMIT = timedelta(seconds=25)
"""Shorter than what the server allows a statement, so that it is a TimeoutError here."""

NOT_OPTED_OUT = "NOT EXISTS (SELECT FROM opt_outs o WHERE o.tenant_id = $1 AND o.phone = c.phone)"

# Memberships only: who is in a group is a contact. Against contacts, by semi-joins as in `selected_contacts`, the same
# took 3 to 16 seconds for a million; so it takes 0.3 to 3, with statistics and without.
_COUNT = """
SELECT m.reachable, m.opted_out, coalesce(w.contacts - w.opted_out, 0) AS all_reachable,
    coalesce(w.opted_out, 0) AS all_opted_out, v.version, s.since,
    coalesce(s.reachable, 0) AS difference_reachable, coalesce(s.opted_out, 0) AS difference_opted_out
FROM (
    SELECT count(*) - count(o.phone) AS reachable, count(o.phone) AS opted_out
    FROM (SELECT DISTINCT phone FROM contact_groups WHERE tenant_id = $1 AND group_name = ANY($2::text[])) i
    LEFT JOIN opt_outs o ON o.tenant_id = $1 AND o.phone = i.phone
    WHERE NOT EXISTS (
        SELECT FROM contact_groups e
        WHERE e.tenant_id = $1 AND e.group_name = ANY($3::text[]) AND e.phone = i.phone
    )
) m CROSS JOIN (
    SELECT coalesce(sum(version), 0)::bigint AS version FROM contact_counts
    WHERE tenant_id = $1 AND group_name = ANY($2::text[] || $3::text[])
) v
LEFT JOIN contact_counts w ON w.tenant_id = $1 AND w.group_name = ''
LEFT JOIN audience_sizes s
    ON s.tenant_id = $1 AND s.audience_id = $4 AND s.version = v.version AND s.since IS NOT NULL
"""


def selected_contacts(audience: Audience, first: int) -> tuple[str, list[Any]]:
    """FROM and WHERE that select an audience's contacts as `c`, opted out or not, and their arguments from $`first` on.

    $1 is the tenant.
    Semi-joins, not joins: a contact in several of the groups counts once without a DISTINCT.
    """
    member = (
        "EXISTS (SELECT FROM contact_groups g WHERE g.tenant_id = $1 AND g.group_name = ANY(${}::text[])"
        " AND g.phone = c.phone)"
    )
    conditions, arguments = ["c.tenant_id = $1"], list[Any]()
    if not audience.all_contacts:
        arguments.append(list(audience.groups))
        conditions.append(member.format(first))
    if audience.exclude_groups:
        arguments.append(list(audience.exclude_groups))
        conditions.append("NOT " + member.format(first + len(arguments) - 1))
    return "FROM contacts c WHERE " + " AND ".join(conditions), arguments


async def size_of_audience(driver: Any, tenant_id: str, audience: Audience, now: datetime) -> AudienceSize:
    """How many contacts an audience selects: as cached, or, where no cached size is current, counted and cached.

    On asyncpg's connection, in a transaction. Of many who ask for the same size at once, one counts.
    """
    size = await read_size(driver, tenant_id, audience)
    if size is None:
        await lock_size(driver, tenant_id, audience)
        size = await read_size(driver, tenant_id, audience)
    return await _count(driver, tenant_id, audience, now) if size is None else size


async def read_audience(
    driver: Any, tenant_id: str, audience: Audience, *, limit: int, at_once: int
) -> AsyncIterator[list[tuple[int, str, str]]]:
    """(phone, first name, last name) of the first `limit` contacts that would be written to, in phone order.

    On asyncpg's connection, in a transaction that does nothing else: one statement, read by a cursor.
    """
    selected, arguments = selected_contacts(audience, 3)
    sql = f"SELECT c.phone, c.first_name, c.last_name {selected} AND {NOT_OPTED_OUT} ORDER BY c.phone LIMIT $2"
    await hash_joins(driver)
    seconds = COUNT_LIMIT.total_seconds()
    cursor = await driver.cursor(sql, tenant_id, limit, *arguments, timeout=seconds)
    while rows := await cursor.fetch(at_once, timeout=seconds):
        yield [(row[0], row[1], row[2]) for row in rows]


async def _count(driver: Any, tenant_id: str, audience: Audience, now: datetime) -> AudienceSize:
    part = audience.counted
    arguments = (part.groups, part.exclude_groups, audience_id(tenant_id, part))
    async with hashed_joins(driver):
        with statement_spans.span("SELECT", _COUNT):
            row = await driver.fetchrow(_COUNT, tenant_id, *arguments, timeout=COUNT_LIMIT.total_seconds())
    counted = CountedSize(
        everybody=AudienceSize(row["all_reachable"], row["all_opted_out"]),
        part=AudienceSize(row["reachable"], row["opted_out"]),
        version=row["version"],
        since=row["since"],
        difference=AudienceSize(row["difference_reachable"], row["difference_opted_out"]),
    )
    await store_size(driver, tenant_id, audience, counted, now)
    return audience.size(counted.everybody, counted.part)
