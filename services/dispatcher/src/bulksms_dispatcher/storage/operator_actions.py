"""Operator actions: who asked for what, when, and why; each is done once however often it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["OperatorAction", "find", "save"]


@dataclass(frozen=True, slots=True)
class OperatorAction:
    """One request of an operator about one batch."""

    request_id: UUID
    kind: str
    batch_id: UUID
    tenant_id: str
    reason: str
    operator: str


_FIND = text("""
    SELECT request_id, kind, batch_id, tenant_id, reason, operator FROM operator_actions WHERE request_id = :request_id
""")
_SAVE = text("""
    INSERT INTO operator_actions (request_id, kind, batch_id, tenant_id, reason, operator)
    VALUES (:request_id, :kind, :batch_id, :tenant_id, :reason, :operator)
    ON CONFLICT DO NOTHING
""")


async def find(connection: AsyncConnection, request_id: UUID) -> OperatorAction | None:
    """What a request id was used for before."""
    row = (await connection.execute(_FIND, {"request_id": request_id})).one_or_none()
    return None if row is None else OperatorAction(**row._asdict())


async def save(connection: AsyncConnection, action: OperatorAction) -> None:
    """Write it down."""
    parameters = {
        "request_id": action.request_id,
        "kind": action.kind,
        "batch_id": action.batch_id,
        "tenant_id": action.tenant_id,
        "reason": action.reason,
        "operator": action.operator,
    }
    await connection.execute(_SAVE, parameters)
