"""Changes of one contact, which cached sizes of audiences follow: opt-outs trickle in all day, and leave them true."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.audiences import Audience, Membership
from bulksms_campaign.storage.audience_sizes import VERSION

_FIND_FOLLOWED = text(f"""
    SELECT audience_id, groups, exclude_groups, version FROM audience_sizes s
    WHERE tenant_id = :tenant_id AND (groups && CAST(:lists AS text[]) OR exclude_groups && CAST(:lists AS text[]))
      AND version = {VERSION}
""")

# By the version seen as well: one evicted meanwhile and noted again is not what was seen.
_FOLLOW = text(f"""
    UPDATE audience_sizes s
    SET reachable = s.reachable + d.reachable, opted_out = s.opted_out + d.opted_out, version = {VERSION}
    FROM unnest(CAST(:audience_ids AS uuid[]), CAST(:versions AS bigint[]), CAST(:reachable AS int[]),
        CAST(:opted_out AS int[])) AS d (audience_id, version, reachable, opted_out)
    WHERE s.tenant_id = :tenant_id AND s.audience_id = d.audience_id AND s.version = d.version
""")


class _Followed(NamedTuple):
    audience_id: UUID
    audience: Audience
    version: int


@asynccontextmanager
async def change_of_membership(
    connection: AsyncConnection, tenant_id: str, before: Membership, after: Membership
) -> AsyncIterator[None]:
    """Around the moves of the counts for one contact's change; the tenant's counts must be locked.

    Cached sizes that were current, or followed, before are so afterwards. The others are left for who counts them.
    """
    followed = await _find_followed(connection, tenant_id, before.lists_changed(after))
    yield
    if followed:
        shares = [item.audience.share(after) - item.audience.share(before) for item in followed]
        arguments = {
            "audience_ids": [item.audience_id for item in followed],
            "versions": [item.version for item in followed],
            "reachable": [share.reachable for share in shares],
            "opted_out": [share.opted_out for share in shares],
        }
        await connection.execute(_FOLLOW, {"tenant_id": tenant_id, **arguments})


async def _find_followed(connection: AsyncConnection, tenant_id: str, lists: frozenset[str]) -> list[_Followed]:
    if not lists:
        return []
    rows = await connection.execute(_FIND_FOLLOWED, {"tenant_id": tenant_id, "lists": sorted(lists)})
    return [
        _Followed(
            row.audience_id,
            Audience(all_contacts=False, groups=tuple(row.groups), exclude_groups=tuple(row.exclude_groups)),
            row.version,
        )
        for row in rows
    ]
