"""Cached sizes of contact lists, so that an enqueue need not count millions of rows.

Everything that changes contacts, groups or opt-outs moves them in its own transaction. Lock order, the same for all:
contact rows, then the tenant's own count row (group ''), then everything else. Who has locked that row sees all changes
committed before, and nobody else's can come in between: so a contact being imported and its opt-out, recorded at the
same moment, are counted once and rightly.

Every statement that moves a count advances the row's version with it: by it cached sizes of audiences know whether
they are current (`audience_sizes`). Rows are never deleted.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.storage.tables import contact_counts

ALL = ""
"""The name of the list of all contacts."""

_ADD = text("""
    INSERT INTO contact_counts AS k (tenant_id, group_name, contacts, opted_out)
    SELECT :tenant_id, name, :contacts, :opted_out FROM unnest(CAST(:names AS text[])) AS name
    ON CONFLICT (tenant_id, group_name) DO UPDATE
        SET contacts = k.contacts + excluded.contacts, opted_out = k.opted_out + excluded.opted_out,
            version = k.version + 1
""")

_MOVE = text("""
    UPDATE contact_counts SET contacts = contacts + :contacts, opted_out = opted_out + :opted_out, version = version + 1
    WHERE tenant_id = :tenant_id AND group_name = ANY(CAST(:names AS text[]))
""")


async def lock_counts(connection: AsyncConnection, tenant_id: str) -> None:
    """Lock the tenant's count row."""
    await connection.execute(
        insert(contact_counts)
        .values(tenant_id=tenant_id, group_name=ALL, contacts=0, opted_out=0)
        .on_conflict_do_nothing()
    )
    await connection.execute(
        select(contact_counts.c.group_name)
        .where(contact_counts.c.tenant_id == tenant_id, contact_counts.c.group_name == ALL)
        .with_for_update()
    )


async def move_counts(
    connection: AsyncConnection, tenant_id: str, names: Sequence[str], *, contacts: int, opted_out: int
) -> None:
    """Add to the sizes of some lists; the tenant's counts must be locked."""
    if names and (contacts or opted_out):
        arguments = {"tenant_id": tenant_id, "names": list(names), "contacts": contacts, "opted_out": opted_out}
        # A list nobody was in has no row yet; it can only be added to.
        await connection.execute(_ADD if contacts > 0 else _MOVE, arguments)
