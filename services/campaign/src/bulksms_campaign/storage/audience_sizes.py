"""Cached sizes of composed audiences, so that an enqueue does not count what has been counted before.

A cached size goes with its version: the sum of the versions of the lists the audience is made of. Whatever changes whom
it reaches moves the count of one of these lists, and that list's version with it, in its own transaction; versions only
grow, so a sum stays the same only while nothing has changed. Size and versions are read by one statement, hence in one
snapshot: a current size is as true as one counted at that moment.

Changes of one contact move the current sizes along with them (`memberships`). So that they do not outrun a count
either, a row can follow before it is counted: it is then the difference `since` a version, and what a count finds is
added to where the row has got to meanwhile.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.audiences import Audience, AudienceSize
from servicekit.bulk import raw
from servicekit.ids import derived_id

MAX_CACHED = 50
"""Sizes cached of one tenant: those used last. A change of a contact looks at each."""
REFRESHED_FOR = timedelta(days=7)
"""For how long after its last use a size that went stale is counted anew before somebody asks."""
NOTED_EVERY = timedelta(hours=1)
"""How exactly the last use is known: not every draft writes it down."""

_NAMESPACE = UUID("4f0d6a35-7c0e-4a0b-9d0a-0b8e2f6f3a51")

VERSION = """
(SELECT coalesce(sum(l.version), 0)::bigint FROM contact_counts l
WHERE l.tenant_id = s.tenant_id AND l.group_name = ANY(s.groups || s.exclude_groups))
"""
"""The version that the lists of a cached size `s` have now."""

IS_CURRENT = f"(s.version = {VERSION} AND s.since IS NULL)"
"""Is the cached size `s` the size?"""


class CountedSize(NamedTuple):
    """What one snapshot says of an audience: all contacts, the part that was counted, and the version of its lists."""

    everybody: AudienceSize
    part: AudienceSize
    version: int
    since: int | None
    """Where the cached row began to follow, if it did and was not outrun; `difference` is how far it had got."""
    difference: AudienceSize


# Joined by keys alone, so that its plan does not depend on statistics.
_READ = f"""
SELECT coalesce(w.contacts - w.opted_out, 0) AS all_reachable, coalesce(w.opted_out, 0) AS all_opted_out,
    coalesce(k.contacts - k.opted_out, s.reachable) AS reachable, coalesce(k.opted_out, s.opted_out) AS opted_out
FROM (SELECT) AS always
LEFT JOIN contact_counts w ON w.tenant_id = $1 AND w.group_name = ''
LEFT JOIN contact_counts k ON k.tenant_id = $1 AND k.group_name = $2
LEFT JOIN audience_sizes s ON s.tenant_id = $1 AND s.audience_id = $3 AND {IS_CURRENT}
"""

_STORE = """
INSERT INTO audience_sizes AS s
    (tenant_id, audience_id, groups, exclude_groups, reachable, opted_out, version, used_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (tenant_id, audience_id) DO UPDATE
    SET reachable = excluded.reachable, opted_out = excluded.opted_out, version = excluded.version, since = NULL
    WHERE s.version < excluded.version
"""

_COMPLETE = """
UPDATE audience_sizes SET reachable = reachable + $4, opted_out = opted_out + $5, since = NULL
WHERE tenant_id = $1 AND audience_id = $2 AND since = $3
"""

_FOLLOW = f"""
UPDATE audience_sizes s SET reachable = 0, opted_out = 0, version = {VERSION}, since = {VERSION}
WHERE tenant_id = $1 AND audience_id = $2 AND version <> {VERSION}
"""

_FIND = f"""
SELECT {IS_CURRENT} AS is_current, s.used_at > $3 AS noted
FROM audience_sizes s WHERE tenant_id = $1 AND audience_id = $2
"""

_NOTE_USE = """
INSERT INTO audience_sizes AS s (tenant_id, audience_id, groups, exclude_groups, used_at) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (tenant_id, audience_id) DO UPDATE SET used_at = excluded.used_at
"""

# A row that somebody has locked is in use, and looked at again the next time.
_EVICT = """
DELETE FROM audience_sizes WHERE tenant_id = $1 AND audience_id IN (
    SELECT audience_id FROM audience_sizes WHERE tenant_id = $1
    ORDER BY used_at DESC OFFSET $2 FOR UPDATE SKIP LOCKED
)
"""

_STALE = f"""
SELECT groups, exclude_groups FROM audience_sizes s
WHERE tenant_id = $1 AND used_at > clock_timestamp() - $2::interval AND NOT {IS_CURRENT}
ORDER BY used_at DESC
"""


async def read_size(driver: Any, tenant_id: str, audience: Audience) -> AudienceSize | None:
    """The size of an audience, without counting; None when it is composed and no cached size is current."""
    part = audience.counted
    row = await driver.fetchrow(_READ, tenant_id, part.single_list, audience_id(tenant_id, part))
    if row["reachable"] is not None:
        counted = AudienceSize(row["reachable"], row["opted_out"])
    elif audience.is_counted:
        return None
    else:
        counted = AudienceSize(0, 0)
    return audience.size(AudienceSize(row["all_reachable"], row["all_opted_out"]), counted)


async def store_size(driver: Any, tenant_id: str, audience: Audience, counted: CountedSize, now: datetime) -> None:
    """Cache what was counted, unless something newer is cached."""
    part, size = audience.counted, counted.part
    key = (tenant_id, audience_id(tenant_id, part))
    if counted.since is not None:
        rest = size - counted.difference
        await driver.execute(_COMPLETE, *key, counted.since, rest.reachable, rest.opted_out)
    else:
        arguments = (part.groups, part.exclude_groups, size.reachable, size.opted_out, counted.version, now)
        await driver.execute(_STORE, *key, *arguments)
        await driver.execute(_EVICT, tenant_id, MAX_CACHED)


async def lock_size(driver: Any, tenant_id: str, audience: Audience) -> None:
    """Be the only one to count this audience until the transaction ends; who waits finds it counted."""
    key = int.from_bytes(audience_id(tenant_id, audience.counted).bytes[:8], signed=True)
    await driver.execute("SELECT pg_advisory_xact_lock($1)", key)


async def follow_size(driver: Any, tenant_id: str, audience: Audience) -> None:
    """Let a stale row follow from now on what changes; committed, it is to be counted next."""
    await driver.execute(_FOLLOW, tenant_id, audience_id(tenant_id, audience.counted))


async def note_use(connection: AsyncConnection, tenant_id: str, audience: Audience, now: datetime) -> bool:
    """A campaign is to go to this composed audience: its size is cached from now on. True when it must be counted."""
    part, driver = audience.counted, await raw(connection)
    key = (tenant_id, audience_id(tenant_id, part))
    found = await driver.fetchrow(_FIND, *key, now - NOTED_EVERY)
    if found is None or not found["noted"]:
        await driver.execute(_NOTE_USE, *key, part.groups, part.exclude_groups, now)
        await driver.execute(_EVICT, tenant_id, MAX_CACHED)
    return found is None or not found["is_current"]


async def list_stale(connection: AsyncConnection, tenant_id: str) -> list[Audience]:
    """Audiences used of late whose cached size is out of date, or was never counted; those used last come first."""
    rows = await (await raw(connection)).fetch(_STALE, tenant_id, REFRESHED_FOR)
    return [
        Audience(all_contacts=False, groups=tuple(row["groups"]), exclude_groups=tuple(row["exclude_groups"]))
        for row in rows
    ]


def audience_id(tenant_id: str, part: Audience) -> UUID:
    """The key under which the size of what is counted of an audience is cached."""
    return derived_id(_NAMESPACE, tenant_id, len(part.groups), *part.groups, *part.exclude_groups)
