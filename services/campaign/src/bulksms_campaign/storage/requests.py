"""Request rows: which mutations were done, so that a repeat does nothing and gets the same result."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import RowMapping, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.storage.tables import requests
from servicekit.errors import already_exists


class MutationKey(NamedTuple):
    """A mutation: whose, under which id, what it is and a hash of what it asks for."""

    tenant_id: str
    request_id: UUID
    operation: str
    content_hash: bytes

    @classmethod
    def of(cls, tenant_id: str, request_id: UUID, operation: str, content: object) -> MutationKey:
        """The key of an operation; `content` is whatever must be the same on a repeat, with a stable repr."""
        return cls(tenant_id, request_id, operation, hashlib.sha256(repr(content).encode()).digest())


class StoredResult(NamedTuple):
    """What a repeat needs of the first call's result."""

    campaign_id: UUID | None
    created: int
    enqueued_jobs: int


async def find_result(connection: AsyncConnection, key: MutationKey) -> StoredResult | None:
    """What the first call under this request id came to, or None. REQUEST_ID_REUSED when it was something else."""
    query = select(requests).where(requests.c.tenant_id == key.tenant_id, requests.c.request_id == key.request_id)
    row = (await connection.execute(query)).mappings().one_or_none()
    return None if row is None else checked_result(key, row)


def checked_result(key: MutationKey, row: RowMapping) -> StoredResult:
    """The result in the row of a request id. Raises REQUEST_ID_REUSED when it was something else."""
    if row["operation"] != key.operation or row["content_hash"] != key.content_hash:
        raise already_exists(
            "REQUEST_ID_REUSED",
            f"This request id was used for another request ({row['operation']}): make a new one for every operation.",
            operation=row["operation"],
        )
    return StoredResult(row["campaign_id"], row["created"], row["enqueued_jobs"])


async def claim_request(
    connection: AsyncConnection, key: MutationKey, campaign_id: UUID, now: datetime
) -> StoredResult | None:
    """Write the request down in the transaction that does it; the first result when somebody else was quicker.

    Waits for a transaction under way that has written the same id. Nothing was created or enqueued by it.
    """
    statement = (
        insert(requests)
        .values(
            tenant_id=key.tenant_id,
            request_id=key.request_id,
            operation=key.operation,
            content_hash=key.content_hash,
            campaign_id=campaign_id,
            created=0,
            enqueued_jobs=0,
            created_at=now,
        )
        .on_conflict_do_nothing()
    )
    inserted = (await connection.execute(statement)).rowcount == 1
    return None if inserted else await find_result(connection, key)
