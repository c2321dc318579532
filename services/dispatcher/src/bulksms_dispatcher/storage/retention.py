"""Retention: batches that became final long ago, with all that hangs on them, a bounded number at a time."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.evidence import EvidenceState
from bulksms_dispatcher.domain.protocol import FINAL

__all__ = ["delete_batches", "delete_evidence"]

_FINAL = ", ".join(str(int(state)) for state in sorted(FINAL))
# In the order they came: it needs no index of its own. What others have not acknowledged, what an operator did and what
# accounting still needs stays.
_DOOMED = text(f"""
    SELECT b.batch_id FROM batches b
    WHERE b.state IN ({_FINAL}) AND b.updated_at < now() - make_interval(secs => :age_seconds)
      AND NOT EXISTS (SELECT 1 FROM outbox o WHERE o.batch_id = b.batch_id AND o.tenant_id = b.tenant_id)
      AND NOT EXISTS (SELECT 1 FROM operator_actions o WHERE o.batch_id = b.batch_id AND o.tenant_id = b.tenant_id)
      AND NOT EXISTS (SELECT 1 FROM uncaptured_credits u WHERE u.batch_id = b.batch_id AND u.tenant_id = b.tenant_id)
    ORDER BY b.seq LIMIT :limit FOR UPDATE SKIP LOCKED
""")
_DELETE = tuple(
    text(f"DELETE FROM {table} WHERE batch_id = ANY(:ids)")
    for table in ("attempts", "provider_responses", "evidence", "delivered_results", "batches")
)
_DELETE_EVIDENCE = text(f"""
    DELETE FROM evidence WHERE state = {EvidenceState.UNMATCHED}
      AND received_at < now() - make_interval(secs => :age_seconds)
""")


async def delete_batches(connection: AsyncConnection, age: timedelta, limit: int) -> int:
    """Delete final batches that have not changed for so long; returns how many.

    Their submissions stay: a repeat of the stream, or of a single message's request, is still known.
    """
    parameters = {"age_seconds": age.total_seconds(), "limit": limit}
    ids = list((await connection.execute(_DOOMED, parameters)).scalars())
    for statement in _DELETE if ids else ():
        await connection.execute(statement, {"ids": ids})
    return len(ids)


async def delete_evidence(connection: AsyncConnection, age: timedelta) -> int:
    """Delete reports that proved nothing, that long ago."""
    return (await connection.execute(_DELETE_EVIDENCE, {"age_seconds": age.total_seconds()})).rowcount
