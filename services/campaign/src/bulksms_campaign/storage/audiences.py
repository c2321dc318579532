"""Audiences in SQL: their sizes, looking at some of their contacts."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.audiences import Audience, AudienceSize
from bulksms_campaign.storage.audience_sizes import CountedSize, audience_id, keep_size, lock_size, read_size
from servicekit import statement_spans
from servicekit.bulk import raw

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

# Not nested loops, whatever the statistics of a table that has just grown say: they took 10 s for 20,000 contacts.
_PLANNED = "SET LOCAL enable_nestloop = off; SET LOCAL work_mem = '64MB'"
_PLANNED_BEFORE = "SET LOCAL enable_nestloop = DEFAULT; SET LOCAL work_mem = DEFAULT"


def selected_contacts(audience: Audience) -> tuple[str, list[Any]]:
    """FROM and WHERE that select an audience's contacts as `c`, opted out or not; $1 is the tenant, $2 and $3 follow.

    Semi-joins, not joins: a contact in several of the groups counts once without a DISTINCT.
    """
    member = (
        "EXISTS (SELECT FROM contact_groups g WHERE g.tenant_id = $1 AND g.group_name = ANY(${}::text[])"
        " AND g.phone = c.phone)"
    )
    conditions, arguments = ["c.tenant_id = $1"], list[Any]()
    if not audience.all_contacts:
        arguments.append(list(audience.groups))
        conditions.append(member.format(len(arguments) + 1))
    if audience.exclude_groups:
        arguments.append(list(audience.exclude_groups))
        conditions.append("NOT " + member.format(len(arguments) + 1))
    return "FROM contacts c WHERE " + " AND ".join(conditions), arguments


async def size_of_audience(driver: Any, tenant_id: str, audience: Audience) -> AudienceSize:
    """How many contacts an audience selects: as kept, or, where nothing kept holds, counted and kept.

    On asyncpg's connection, in a transaction. Of many who ask for the same size at once, one counts.
    """
    size = await read_size(driver, tenant_id, audience)
    if size is None:
        await lock_size(driver, tenant_id, audience)
        size = await read_size(driver, tenant_id, audience)
    return await _count(driver, tenant_id, audience) if size is None else size


async def read_audience(
    connection: AsyncConnection, tenant_id: str, audience: Audience, after: int, limit: int
) -> list[tuple[int, str, str]]:
    """(phone, first name, last name) of some contacts that would be written to, in phone order."""
    selected, arguments = selected_contacts(audience)
    driver = await raw(connection)
    rows = await driver.fetch(
        f"SELECT c.phone, c.first_name, c.last_name {selected} AND {NOT_OPTED_OUT}"
        f" AND c.phone > ${len(arguments) + 2} ORDER BY c.phone LIMIT ${len(arguments) + 3}",
        tenant_id,
        *arguments,
        after,
        limit,
        timeout=COUNT_LIMIT.total_seconds(),
    )
    return [(row[0], row[1], row[2]) for row in rows]


async def _count(driver: Any, tenant_id: str, audience: Audience) -> AudienceSize:
    part = audience.counted
    arguments = (part.groups, part.exclude_groups, audience_id(tenant_id, part))
    await driver.execute(_PLANNED)
    with statement_spans.span("SELECT", _COUNT):
        row = await driver.fetchrow(_COUNT, tenant_id, *arguments, timeout=COUNT_LIMIT.total_seconds())
    await driver.execute(_PLANNED_BEFORE)
    counted = CountedSize(
        everybody=AudienceSize(row["all_reachable"], row["all_opted_out"]),
        part=AudienceSize(row["reachable"], row["opted_out"]),
        version=row["version"],
        since=row["since"],
        difference=AudienceSize(row["difference_reachable"], row["difference_opted_out"]),
    )
    await keep_size(driver, tenant_id, audience, counted)
    return audience.size(counted.everybody, counted.part)
