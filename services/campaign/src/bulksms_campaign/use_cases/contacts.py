"""Contacts one at a time, and opt-outs, which the dispatcher is told of by a task."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.audiences import Audience, AudienceSize
from bulksms_campaign.domain.contacts import Contact
from bulksms_campaign.storage import contacts as rows
from bulksms_campaign.storage.audiences import size_of_audience
from bulksms_campaign.storage.suppressions import wish
from bulksms_campaign.storage.tasks import TaskKind, ask_for_task
from bulksms_campaign.use_cases.signals import Bells
from servicekit.database import Database
from servicekit.errors import not_found
from servicekit.ids import derived_id

_NAMESPACE = UUID("8e2b6a3e-39c1-4d8f-8c55-2b8a4f0e9d63")


class Upserted(NamedTuple):
    """A contact as stored, and whether it is new."""

    contact: Contact
    created: bool


class Contacts:
    """Idempotent by content: repeating any of these changes nothing."""

    def __init__(self, database: Database, bells: Bells) -> None:
        self._database = database
        self._bells = bells

    async def upsert(
        self, tenant_id: str, phone: int, *, first_name: str, last_name: str, groups: tuple[str, ...]
    ) -> Upserted:
        """Create or replace a contact."""

        async def body(connection: AsyncConnection) -> Upserted:
            created = await rows.upsert_contact(
                connection, tenant_id, phone, first_name=first_name, last_name=last_name, groups=groups
            )
            contact = await rows.read_contact(connection, tenant_id, phone)
            assert contact is not None, "written in this transaction"  # noqa: S101
            return Upserted(contact, created)

        return await self._database.run_transaction(body)

    async def get(self, tenant_id: str, phone: int) -> Contact:
        """One contact; CONTACT_NOT_FOUND."""
        async with self._database.connect() as connection:
            contact = await rows.read_contact(connection, tenant_id, phone)
        if contact is None:
            raise not_found("CONTACT_NOT_FOUND", "This tenant has no contact with this number: import or upsert it.")
        return contact

    async def list(self, tenant_id: str, group: str, after: int, limit: int) -> list[Contact]:
        """A page in phone order."""
        async with self._database.connect() as connection:
            return await rows.list_contacts(connection, tenant_id, group, after, limit)

    async def delete(self, tenant_id: str, phone: int) -> bool:
        """Forget a contact; False when there was none."""
        return await self._database.run_transaction(lambda c: rows.delete_contact(c, tenant_id, phone))

    async def count(self, tenant_id: str, audience: Audience) -> AudienceSize:
        """How many an audience would reach now."""
        return await self._database.run_raw_transaction(lambda c: size_of_audience(c, tenant_id, audience))

    async def opt_out(self, tenant_id: str, phone: int, source: str) -> bool:
        """Record an opt-out; True when it is new."""

        async def body(connection: AsyncConnection) -> bool:
            new = await rows.opt_out(connection, tenant_id, phone, source)
            if new:
                await _tell_dispatcher(connection, tenant_id, phone, suppressed=True)
            return new

        return await self._change(body)

    async def opt_in(self, tenant_id: str, phone: int) -> bool:
        """Take an opt-out back; True when there was one."""

        async def body(connection: AsyncConnection) -> bool:
            gone = await rows.opt_in(connection, tenant_id, phone)
            if gone:
                await _tell_dispatcher(connection, tenant_id, phone, suppressed=False)
            return gone

        return await self._change(body)

    async def _change(self, body: Callable[[AsyncConnection], Awaitable[bool]]) -> bool:
        changed = await self._database.run_transaction(body)
        if changed:
            self._bells.suppress.ring()
        return changed


async def _tell_dispatcher(connection: AsyncConnection, tenant_id: str, phone: int, *, suppressed: bool) -> None:
    await wish(connection, tenant_id, phone, suppressed=suppressed)
    await ask_for_task(connection, TaskKind.SUPPRESS, derived_id(_NAMESPACE, tenant_id), tenant_id)
