"""Suppression wishes: opt-outs and opt-ins the dispatcher is still to be told of, the last one per number."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID, uuid4

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.storage.tables import suppression_wishes


class SuppressionWish(NamedTuple):
    """A number that is, or is no longer, to be suppressed."""

    phone: int
    suppressed: bool
    wish_id: UUID


async def wish(connection: AsyncConnection, tenant_id: str, phone: int, *, suppressed: bool) -> None:
    """Replace what the dispatcher is to be told of a number."""
    values = {"suppressed": suppressed, "wish_id": uuid4()}
    statement = insert(suppression_wishes).values(tenant_id=tenant_id, phone=phone, **values)
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=[suppression_wishes.c.tenant_id, suppression_wishes.c.phone], set_=values
        )
    )


async def read_wishes(connection: AsyncConnection, tenant_id: str, limit: int) -> list[SuppressionWish]:
    """Some of a tenant's wishes."""
    query = (
        select(suppression_wishes.c.phone, suppression_wishes.c.suppressed, suppression_wishes.c.wish_id)
        .where(suppression_wishes.c.tenant_id == tenant_id)
        .order_by(suppression_wishes.c.phone)
        .limit(limit)
    )
    return [SuppressionWish(*row) for row in await connection.execute(query)]


# By wish id as well: a wish replaced while the dispatcher was being told of the old one stays. And by the phones twice,
# so that however the join is planned, no more than these are looked at.
_FORGET = text("""
    DELETE FROM suppression_wishes w
    USING unnest(CAST(:phones AS bigint[]), CAST(:wish_ids AS uuid[])) AS t (phone, wish_id)
    WHERE w.tenant_id = :tenant_id AND w.phone = ANY(CAST(:phones AS bigint[]))
      AND w.phone = t.phone AND w.wish_id = t.wish_id
""")


async def forget_wishes(connection: AsyncConnection, tenant_id: str, wishes: list[SuppressionWish]) -> None:
    """The dispatcher knows of these."""
    await connection.execute(
        _FORGET,
        {
            "tenant_id": tenant_id,
            "phones": [item.phone for item in wishes],
            "wish_ids": [item.wish_id for item in wishes],
        },
    )
