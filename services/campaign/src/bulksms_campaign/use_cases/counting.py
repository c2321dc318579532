"""Counting: how many an audience reaches; composed ones are counted before somebody who enqueues has to wait for it."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.audiences import Audience, AudienceSize
from bulksms_campaign.storage.audience_sizes import note_use
from bulksms_campaign.storage.audiences import size_of_audience
from bulksms_campaign.storage.instants import read_raw_instant
from bulksms_campaign.storage.tasks import TaskKind, ask_for_task
from servicekit.database import Database
from servicekit.ids import derived_id

_NAMESPACE = UUID("b3f3b8a1-7f5e-4c53-8d3c-6a0d7c1b2e94")


async def count_audience(database: Database, tenant_id: str, audience: Audience) -> AudienceSize:
    """How many it reaches now; a size that has to be counted is cached."""

    async def body(driver: Any) -> AudienceSize:
        return await size_of_audience(driver, tenant_id, audience, await read_raw_instant(driver))

    return await database.run_raw_transaction(body)


async def prepare_count(connection: AsyncConnection, tenant_id: str, audience: Audience, now: datetime) -> None:
    """A campaign is to go to this audience: have it counted, if it is not. Notify the signal after the commit."""
    if audience.is_counted and await note_use(connection, tenant_id, audience, now):
        await ask_for_count(connection, tenant_id, now)


async def ask_for_count(connection: AsyncConnection, tenant_id: str, now: datetime) -> None:
    """Have all audiences counted whose cached size is out of date; one task per tenant. Notify the signal as well."""
    await ask_for_task(connection, TaskKind.COUNT, tenant_id, derived_id(_NAMESPACE, tenant_id), now)
