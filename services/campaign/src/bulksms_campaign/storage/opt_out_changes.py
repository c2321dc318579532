"""Opt-outs and opt-ins still to be delivered to the dispatcher, the last one per number."""

from __future__ import annotations

from typing import NamedTuple
from uuid import UUID, uuid4

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.storage.tables import opt_out_changes


class OptOutChange(NamedTuple):
    """A number that has opted out, or has not any more."""

    phone: int
    opted_out: bool
    change_id: UUID


async def replace_change(connection: AsyncConnection, tenant_id: str, phone: int, *, opted_out: bool) -> None:
    """This is to be delivered of a number, and nothing that came before."""
    values = {"opted_out": opted_out, "change_id": uuid4()}
    statement = insert(opt_out_changes).values(tenant_id=tenant_id, phone=phone, **values)
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=[opt_out_changes.c.tenant_id, opt_out_changes.c.phone], set_=values
        )
    )


async def read_changes(connection: AsyncConnection, tenant_id: str, limit: int) -> list[OptOutChange]:
    """Some of a tenant's changes."""
    query = (
        select(opt_out_changes.c.phone, opt_out_changes.c.opted_out, opt_out_changes.c.change_id)
        .where(opt_out_changes.c.tenant_id == tenant_id)
        .order_by(opt_out_changes.c.phone)
        .limit(limit)
    )
    return [OptOutChange(*row) for row in await connection.execute(query)]


# By change id as well: a change replaced while the old one was being delivered stays. And by the phones twice, so that
# however the join is planned, no more than these are looked at.
_DELETE = text("""
    DELETE FROM opt_out_changes c
    USING unnest(CAST(:phones AS bigint[]), CAST(:change_ids AS uuid[])) AS t (phone, change_id)
    WHERE c.tenant_id = :tenant_id AND c.phone = ANY(CAST(:phones AS bigint[]))
      AND c.phone = t.phone AND c.change_id = t.change_id
""")


async def delete_changes(connection: AsyncConnection, tenant_id: str, changes: list[OptOutChange]) -> None:
    """The dispatcher knows of these."""
    await connection.execute(
        _DELETE,
        {
            "tenant_id": tenant_id,
            "phones": [item.phone for item in changes],
            "change_ids": [item.change_id for item in changes],
        },
    )
