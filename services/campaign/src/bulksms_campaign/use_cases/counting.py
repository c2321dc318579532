"""Counting ahead: composed audiences are counted before somebody who enqueues has to wait for it."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.audiences import Audience
from bulksms_campaign.storage.audience_sizes import note_use
from bulksms_campaign.storage.tasks import TaskKind, ask_for_task
from servicekit.ids import derived_id

_NAMESPACE = UUID("b3f3b8a1-7f5e-4c53-8d3c-6a0d7c1b2e94")


async def count_ahead(connection: AsyncConnection, tenant_id: str, audience: Audience) -> None:
    """A campaign is to go to this audience: have it counted, if that is not done. Ring the bell after the commit."""
    if audience.is_counted and await note_use(connection, tenant_id, audience):
        await count_again(connection, tenant_id)


async def count_again(connection: AsyncConnection, tenant_id: str) -> None:
    """Have all audiences counted whose kept size holds no longer; one task per tenant. Ring the bell as well."""
    await ask_for_task(connection, TaskKind.COUNT, derived_id(_NAMESPACE, tenant_id), tenant_id)
