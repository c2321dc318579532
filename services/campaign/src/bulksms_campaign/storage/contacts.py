"""Contact rows: one at a time; whole files are in `imports`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, BigInteger, Row, any_, delete, func, literal_column, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.audiences import Membership
from bulksms_campaign.domain.contacts import Contact, ContactContent
from bulksms_campaign.storage.contact_counts import ALL, lock_counts, move_counts
from bulksms_campaign.storage.memberships import change_of_membership
from bulksms_campaign.storage.tables import contact_groups, contacts, opt_outs


async def claim_contact(connection: AsyncConnection, tenant_id: str, phone: int, now: datetime) -> bool:
    """Lock a contact, made without any content if there is none; True when it is new."""
    statement = insert(contacts).values(
        tenant_id=tenant_id, phone=phone, first_name="", last_name="", created_at=now, updated_at=now
    )
    claimed = statement.on_conflict_do_update(
        index_elements=[contacts.c.tenant_id, contacts.c.phone], set_={"updated_at": now}
    )
    # xmax is 0 in a row this statement inserted, and the updater's id in one it changed.
    return bool((await connection.execute(claimed.returning(literal_column("xmax = 0")))).scalar_one())


async def write_contact(
    connection: AsyncConnection, tenant_id: str, phone: int, content: ContactContent, now: datetime, *, created: bool
) -> None:
    """Replace the content of a contact that this transaction has claimed, and move the counts if it is new."""
    await connection.execute(
        update(contacts)
        .where(contacts.c.tenant_id == tenant_id, contacts.c.phone == phone)
        .values(first_name=content.first_name, last_name=content.last_name, external_id=content.external_id or None)
    )
    groups = content.groups
    before = set(await _groups_of(connection, tenant_id, phone))
    left, joined = sorted(before - set(groups)), sorted(set(groups) - before)
    if left:
        await connection.execute(
            delete(contact_groups).where(*_membership(tenant_id, phone), contact_groups.c.group_name.in_(left))
        )
    if joined:
        rows = [{"tenant_id": tenant_id, "phone": phone, "group_name": name, "added_at": now} for name in joined]
        await connection.execute(insert(contact_groups).values(rows))
    await lock_counts(connection, tenant_id)
    opted_out = await is_opted_out(connection, tenant_id, phone)
    was, becomes = Membership(frozenset(before), opted_out), Membership(frozenset(groups), opted_out)
    async with change_of_membership(connection, tenant_id, was, becomes):
        await move_counts(connection, tenant_id, [ALL] * created + joined, contacts=1, opted_out=int(opted_out))
        await move_counts(connection, tenant_id, left, contacts=-1, opted_out=-int(opted_out))


async def delete_contact(connection: AsyncConnection, tenant_id: str, phone: int) -> bool:
    """Forget a contact; True when there was one. Its opt-out stays."""
    statement = delete(contacts).where(contacts.c.tenant_id == tenant_id, contacts.c.phone == phone)
    if (await connection.execute(statement)).rowcount == 0:
        return False
    left = delete(contact_groups).where(*_membership(tenant_id, phone)).returning(contact_groups.c.group_name)
    names = list((await connection.execute(left)).scalars())
    await lock_counts(connection, tenant_id)
    opted_out = await is_opted_out(connection, tenant_id, phone)
    was, becomes = Membership(frozenset(names), opted_out), Membership(frozenset(), opted_out)
    async with change_of_membership(connection, tenant_id, was, becomes):
        await move_counts(connection, tenant_id, [ALL, *names], contacts=-1, opted_out=-int(opted_out))
    return True


async def read_contact(connection: AsyncConnection, tenant_id: str, phone: int) -> Contact | None:
    """One contact."""
    found = await _read(connection, tenant_id, contacts.c.phone == phone, limit=1)
    return found[0] if found else None


async def find_phone(connection: AsyncConnection, tenant_id: str, external_id: str) -> int | None:
    """The number of the contact with the caller's own id."""
    query = select(contacts.c.phone).where(contacts.c.tenant_id == tenant_id, contacts.c.external_id == external_id)
    return (await connection.execute(query)).scalar_one_or_none()


async def list_contacts(
    connection: AsyncConnection, tenant_id: str, group: str, after: int, limit: int
) -> list[Contact]:
    """A page of contacts in phone order, of one group or of all."""
    if not group:
        return await _read(connection, tenant_id, contacts.c.phone > after, limit=limit)
    members = (
        select(contact_groups.c.phone)
        .where(
            contact_groups.c.tenant_id == tenant_id,
            contact_groups.c.group_name == group,
            contact_groups.c.phone > after,
        )
        .order_by(contact_groups.c.phone)
        .limit(limit)
    )
    # Who is in a group is a contact. An array, not a join: see `plans`.
    phones = func.array(members.scalar_subquery(), type_=ARRAY(BigInteger))
    return await _read(connection, tenant_id, contacts.c.phone == any_(phones), limit=limit)


async def is_opted_out(connection: AsyncConnection, tenant_id: str, phone: int) -> bool:
    """Must the number not be written to?"""
    query = select(opt_outs.c.phone).where(opt_outs.c.tenant_id == tenant_id, opt_outs.c.phone == phone)
    return (await connection.execute(query)).one_or_none() is not None


async def opt_out(connection: AsyncConnection, tenant_id: str, phone: int, source: str, now: datetime) -> bool:
    """Record an opt-out; True when it is new."""
    await lock_counts(connection, tenant_id)
    statement = insert(opt_outs).values(tenant_id=tenant_id, phone=phone, source=source, created_at=now)
    new = (await connection.execute(statement.on_conflict_do_nothing())).rowcount == 1
    if new:
        await _move_opted_out(connection, tenant_id, phone, 1)
    return new


async def opt_in(connection: AsyncConnection, tenant_id: str, phone: int) -> bool:
    """Take an opt-out back; True when there was one."""
    await lock_counts(connection, tenant_id)
    statement = delete(opt_outs).where(opt_outs.c.tenant_id == tenant_id, opt_outs.c.phone == phone)
    gone = (await connection.execute(statement)).rowcount == 1
    if gone:
        await _move_opted_out(connection, tenant_id, phone, -1)
    return gone


async def _move_opted_out(connection: AsyncConnection, tenant_id: str, phone: int, opted_out: int) -> None:
    lists = await _lists_of(connection, tenant_id, phone)
    groups = frozenset(lists) - {ALL}
    was, becomes = Membership(groups, opted_out < 0), Membership(groups, opted_out > 0)
    async with change_of_membership(connection, tenant_id, was, becomes):
        await move_counts(connection, tenant_id, lists, contacts=0, opted_out=opted_out)


# Only lists the contact is counted in: a number that is no contact may opt out, too.
_LISTS = text("""
    SELECT '' FROM contacts WHERE tenant_id = :tenant_id AND phone = :phone
    UNION ALL SELECT group_name FROM contact_groups WHERE tenant_id = :tenant_id AND phone = :phone
""")


async def _lists_of(connection: AsyncConnection, tenant_id: str, phone: int) -> list[str]:
    return list((await connection.execute(_LISTS, {"tenant_id": tenant_id, "phone": phone})).scalars())


async def _groups_of(connection: AsyncConnection, tenant_id: str, phone: int) -> list[str]:
    query = select(contact_groups.c.group_name).where(*_membership(tenant_id, phone))
    return list((await connection.execute(query)).scalars())


def _membership(tenant_id: str, phone: int) -> tuple[Any, Any]:
    return contact_groups.c.tenant_id == tenant_id, contact_groups.c.phone == phone


async def _read(connection: AsyncConnection, tenant_id: str, condition: Any, *, limit: int) -> list[Contact]:
    groups = (
        select(func.array_agg(contact_groups.c.group_name))
        .where(contact_groups.c.tenant_id == tenant_id, contact_groups.c.phone == contacts.c.phone)
        .scalar_subquery()
    )
    opted_out = (
        select(opt_outs.c.phone).where(opt_outs.c.tenant_id == tenant_id, opt_outs.c.phone == contacts.c.phone).exists()
    )
    query = (
        select(contacts, groups.label("groups"), opted_out.label("opted_out"))
        .where(contacts.c.tenant_id == tenant_id, condition)
        .order_by(contacts.c.phone)
        .limit(limit)
    )
    return [_contact(row) for row in await connection.execute(query)]


def _contact(row: Row[Any]) -> Contact:
    return Contact(
        phone=row.phone,
        content=ContactContent(
            external_id=row.external_id or "",
            first_name=row.first_name,
            last_name=row.last_name,
            groups=tuple(sorted(row.groups or ())),
        ),
        opted_out=row.opted_out,
        created_at=row.created_at,
        updated_at=row.updated_at,
    )
