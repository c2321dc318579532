"""Contacts one at a time, and opt-outs, which a task delivers to the dispatcher."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.audiences import Audience, AudienceSize
from bulksms_campaign.domain.contacts import (
    Contact,
    ContactContent,
    contact_changed,
    contact_not_found,
    external_id_used,
)
from bulksms_campaign.storage import contacts as rows
from bulksms_campaign.storage.instants import read_instant
from bulksms_campaign.storage.opt_out_changes import replace_change
from bulksms_campaign.storage.tasks import TaskKind, ask_for_task
from bulksms_campaign.use_cases.counting import count_audience
from bulksms_campaign.use_cases.signals import Signals
from servicekit.database import Database, violated_constraint
from servicekit.ids import derived_id

_NAMESPACE = UUID("8e2b6a3e-39c1-4d8f-8c55-2b8a4f0e9d63")


class Upserted(NamedTuple):
    """A contact as stored, and whether it is new."""

    contact: Contact
    created: bool


class Contacts:
    """Idempotent by content: repeating any of these changes nothing."""

    def __init__(self, database: Database, signals: Signals) -> None:
        self._database = database
        self._signals = signals

    async def upsert(
        self, tenant_id: str, phone: int, content: ContactContent, names: Collection[str], etag: str
    ) -> Upserted:
        """Create a contact, or replace the fields called `names` of one that exists.

        ETAG_MISMATCH, unless `etag` is empty or it is as asked for already; EXTERNAL_ID_USED.
        """

        async def body(connection: AsyncConnection) -> Upserted:
            now = await read_instant(connection)
            created = await rows.claim_contact(connection, tenant_id, phone, now)
            before = (await _claimed(connection, tenant_id, phone)).content
            wanted = content if created else before.replaced(content, names)
            # Nothing known of a new one; a repeat finds what it asked for.
            if etag and (created or (wanted != before and etag != before.etag)):
                raise contact_changed()
            await rows.write_contact(connection, tenant_id, phone, wanted, now, created=created)
            return Upserted(await _claimed(connection, tenant_id, phone), created)

        try:
            return await self._database.run_transaction(body)
        except Exception as error:
            if violated_constraint(error) == "contacts_by_external_id":
                raise external_id_used() from error
            raise

    async def get(self, tenant_id: str, phone: int) -> Contact:
        """One contact; CONTACT_NOT_FOUND."""
        async with self._database.connect() as connection:
            contact = await rows.read_contact(connection, tenant_id, phone)
        if contact is None:
            raise contact_not_found()
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
        return await count_audience(self._database, tenant_id, audience)

    async def opt_out(self, tenant_id: str, phone: int, source: str) -> bool:
        """Record an opt-out; True when it is new."""

        async def body(connection: AsyncConnection) -> bool:
            now = await read_instant(connection)
            new = await rows.opt_out(connection, tenant_id, phone, source, now)
            if new:
                await _deliver(connection, tenant_id, phone, now, opted_out=True)
            return new

        return await self._change(body)

    async def opt_in(self, tenant_id: str, phone: int) -> bool:
        """Take an opt-out back; True when there was one."""

        async def body(connection: AsyncConnection) -> bool:
            now = await read_instant(connection)
            gone = await rows.opt_in(connection, tenant_id, phone)
            if gone:
                await _deliver(connection, tenant_id, phone, now, opted_out=False)
            return gone

        return await self._change(body)

    async def _change(self, body: Callable[[AsyncConnection], Awaitable[bool]]) -> bool:
        changed = await self._database.run_transaction(body)
        if changed:
            self._signals.deliver_opt_outs.notify()
        return changed


async def _claimed(connection: AsyncConnection, tenant_id: str, phone: int) -> Contact:
    contact = await rows.read_contact(connection, tenant_id, phone)
    assert contact is not None, "claimed by this transaction"  # noqa: S101
    return contact


async def _deliver(connection: AsyncConnection, tenant_id: str, phone: int, now: datetime, *, opted_out: bool) -> None:
    await replace_change(connection, tenant_id, phone, opted_out=opted_out)
    await ask_for_task(connection, TaskKind.DELIVER_OPT_OUTS, tenant_id, derived_id(_NAMESPACE, tenant_id), now)
