"""Audiences in SQL: counting them, looking at some of their contacts."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.audiences import Audience, AudienceSize
from bulksms_campaign.storage.contact_counts import read_count
from servicekit.bulk import raw

COUNT_LIMIT = timedelta(seconds=30)

NOT_OPTED_OUT = "NOT EXISTS (SELECT FROM opt_outs o WHERE o.tenant_id = $1 AND o.phone = c.phone)"


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


async def count_audience(connection: AsyncConnection, tenant_id: str, audience: Audience) -> AudienceSize:
    """How many contacts an audience selects: from the kept sizes where it is one list, else by counting."""
    name = audience.single_list
    if name is not None:
        return await read_count(connection, tenant_id, name)
    return await _count(await raw(connection), tenant_id, audience)


async def count_reachable(driver: Any, tenant_id: str, audience: Audience) -> int:
    """How many contacts of an audience can be written to, by counting; asked on asyncpg's connection."""
    return (await _count(driver, tenant_id, audience)).reachable


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
    selected, arguments = selected_contacts(audience)
    row = await driver.fetchrow(
        f"SELECT count(*) FILTER (WHERE {NOT_OPTED_OUT}) AS reachable, count(*) AS selected {selected}",
        tenant_id,
        *arguments,
        timeout=COUNT_LIMIT.total_seconds(),
    )
    return AudienceSize(row["reachable"], row["selected"] - row["reachable"])
