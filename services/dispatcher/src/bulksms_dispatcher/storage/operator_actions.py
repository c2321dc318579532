"""Operator actions: who asked for what, when, and why; each is done once however often it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

__all__ = ["OperatorAction", "find", "save"]


@dataclass(frozen=True, slots=True)
class OperatorAction:
    """One request of an operator: about one batch, or about the `subject` it names."""

    request_id: UUID
    kind: str
    reason: str
    operator: str
    batch_id: UUID | None = None
    tenant_id: str | None = None
    """The batch's; None where it is about no batch."""
    subject: str = ""


_FIND = text("""
    SELECT request_id, kind, reason, operator, batch_id, tenant_id, subject FROM operator_actions
    WHERE request_id = :request_id
""")
_SAVE = text("""
    INSERT INTO operator_actions (request_id, kind, reason, operator, batch_id, tenant_id, subject)
    VALUES (:request_id, :kind, :reason, :operator, :batch_id, :tenant_id, :subject)
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
        "reason": action.reason,
        "operator": action.operator,
        "batch_id": action.batch_id,
        "tenant_id": action.tenant_id,
        "subject": action.subject,
    }
    await connection.execute(_SAVE, parameters)
