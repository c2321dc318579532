"""Unresolved batches: sent, perhaps, or on the wire just now, and without message ids."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.batches import BatchKey
from bulksms_dispatcher.domain.protocol import BatchState
from bulksms_dispatcher.domain.results import OPERATOR
from bulksms_dispatcher.domain.unresolved import Unresolved

__all__ = ["Nearby", "are_there_any", "find_nearby", "lock", "read"]


@dataclass(frozen=True, slots=True)
class Nearby:
    """A batch that a message may be of; armed too long before it when not `in_window`."""

    batch: Unresolved
    in_window: bool


# As the index batches_without_ids has it.
_WITHOUT_IDS = f"""(b.state IN ({BatchState.AMBIGUOUS}, {BatchState.UNRESOLVED})
    OR (b.state IN ({BatchState.ACCEPTED}, {BatchState.REJECTED}) AND b.reason = '{OPERATOR}'))"""
_ARE_THERE_ANY = text(f"""
    SELECT EXISTS (SELECT 1 FROM batches b WHERE {_WITHOUT_IDS})
        OR EXISTS (SELECT 1 FROM batches b WHERE b.state IN ({BatchState.LEASED}, {BatchState.ARMED})
                   AND b.state = {BatchState.ARMED})
""")
_COLUMNS = """b.batch_id, b.tenant_id, b.epoch, b.attempt_id, b.state, b.reason, b.campaign_id, b.submission_id,
              b.evidenced, b.packed, b.opted_out_positions, s.text, s.sender, s.variable_names"""
_LOCK = text(f"""
    SELECT {_COLUMNS}
    FROM batches b JOIN submissions s ON s.submission_id = b.submission_id AND s.tenant_id = b.tenant_id
    WHERE b.batch_id = :batch_id FOR UPDATE OF b
""")
_READ = text(f"""
    SELECT {_COLUMNS}
    FROM batches b JOIN submissions s ON s.submission_id = b.submission_id AND s.tenant_id = b.tenant_id
    WHERE b.batch_id = :batch_id AND b.tenant_id = :tenant_id
""")
# Its last attempt is the one that counts: the earlier ones were provably not accepted. On the wire are candidates too:
# while one of them may be what the provider has, nothing else can be. Those armed long before are rivals, but no match:
# a worker that was frozen between arming and sending sends late.
_FIND_NEARBY = text(f"""
    SELECT {_COLUMNS}, a.armed_at, a.armed_at >= CAST(:earliest AS timestamptz) AS in_window FROM (
        SELECT b.* FROM batches b WHERE {_WITHOUT_IDS}
            AND (b.state = {BatchState.AMBIGUOUS} OR b.updated_at >= CAST(:earliest AS timestamptz))
        UNION ALL
        SELECT b.* FROM batches b WHERE b.state IN ({BatchState.LEASED}, {BatchState.ARMED})
                                    AND b.state = {BatchState.ARMED}
    ) b
    JOIN attempts a ON a.batch_id = b.batch_id AND a.tenant_id = b.tenant_id AND a.number = b.attempts
    JOIN submissions s ON s.submission_id = b.submission_id AND s.tenant_id = b.tenant_id
    WHERE CAST(:phone AS bigint) BETWEEN b.first_phone AND b.last_phone
      AND a.armed_at <= CAST(:latest AS timestamptz)
    ORDER BY a.armed_at, b.batch_id LIMIT :limit
""")


async def are_there_any(connection: AsyncConnection) -> bool:
    """True when any batch is on the wire, or was sent and has no message ids."""
    return bool((await connection.execute(_ARE_THERE_ANY)).scalar_one())


async def find_nearby(
    connection: AsyncConnection, phone: int, earliest: datetime, latest: datetime, limit: int
) -> list[Nearby]:
    """Batches with this number in their range, armed before `latest`, whose ids nobody knows; in order of arming."""
    parameters = {"phone": phone, "earliest": earliest, "latest": latest, "limit": limit}
    return [Nearby(_unresolved(row), row.in_window) for row in await connection.execute(_FIND_NEARBY, parameters)]


async def read(connection: AsyncConnection, batch: BatchKey) -> Unresolved:
    """Read a batch in whatever state it is."""
    parameters = {"batch_id": batch.batch_id, "tenant_id": batch.tenant_id}
    return _unresolved((await connection.execute(_READ, parameters)).one())


async def lock(connection: AsyncConnection, batch_id: UUID) -> Unresolved | None:
    """Read a batch in whatever state it is; nobody else changes it until the transaction ends."""
    row = (await connection.execute(_LOCK, {"batch_id": batch_id})).one_or_none()
    return None if row is None else _unresolved(row)


def _unresolved(row: Row[Any]) -> Unresolved:
    fields = row._asdict() | {"state": BatchState(row.state)}
    fields.pop("in_window", None)
    fields.pop("armed_at", None)
    return Unresolved(**fields)
