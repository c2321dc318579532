"""What the database knows of why a campaign's batches wait."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.campaign_holds import QueueFacts, WaitingBatch
from bulksms_dispatcher.domain.messages import MessageClass
from bulksms_dispatcher.domain.protocol import BatchState
from bulksms_dispatcher.storage import stops

__all__ = ["read"]

# The first and the last of the claim's order: two probes of batches_claim for each priority.
_END = """
    SELECT ends.* FROM (VALUES (1), (2), (3)) AS p (priority) CROSS JOIN LATERAL (
        SELECT b.reason, b.not_before, b.updated_at FROM batches b
        WHERE b.state = {ready} AND b.priority = p.priority AND b.tenant_id = :tenant_id
          AND b.campaign_id = :campaign_id
        ORDER BY b.not_before {order}, b.seq {order} LIMIT 1
    ) ends ORDER BY ends.not_before {order} LIMIT 1
"""
_READ = text(f"""
    SELECT clock_timestamp() AS now,
           (SELECT s.message_class FROM submissions s
            WHERE s.campaign_id = :campaign_id AND s.tenant_id = :tenant_id
            ORDER BY s.enqueue_number DESC LIMIT 1) AS message_class,
           (SELECT c.updated_at FROM campaigns c
            WHERE c.campaign_id = :campaign_id AND c.tenant_id = :tenant_id AND c.paused) AS paused_since,
           first.reason AS first_reason, first.not_before AS first_not_before, first.updated_at AS first_changed_at,
           last.reason AS last_reason, last.not_before AS last_not_before, last.updated_at AS last_changed_at,
           leased.reason AS leased_reason, leased.not_before AS leased_not_before,
           leased.updated_at AS leased_changed_at
    FROM (SELECT 1) AS one
    LEFT JOIN ({_END.format(ready=int(BatchState.READY), order="ASC")}) first ON true
    LEFT JOIN ({_END.format(ready=int(BatchState.READY), order="DESC")}) last ON true
    LEFT JOIN (
        SELECT b.reason, b.not_before, b.updated_at FROM batches b
        WHERE b.state IN ({BatchState.LEASED}, {BatchState.ARMED}) AND b.state = {BatchState.LEASED}
          AND b.tenant_id = :tenant_id AND b.campaign_id = :campaign_id
        ORDER BY b.not_before LIMIT 1
    ) leased ON true
""")


async def read(connection: AsyncConnection, tenant_id: str, campaign_id: UUID, account: str) -> QueueFacts:
    """As of now; `account` is the traffic account that sends."""
    row = (await connection.execute(_READ, {"tenant_id": tenant_id, "campaign_id": campaign_id})).one()
    message_class = None if row.message_class is None else MessageClass(row.message_class)
    # Its only batch may be in somebody's hands at this moment, and go back to wait as it did before.
    leased = _batch(row, "leased")
    in_force = await stops.read_of_tenant(connection, tenant_id, account)
    return QueueFacts(
        now=row.now,
        stop=next((stop for stop in in_force if stop.key.message_class in (None, message_class)), None),
        paused_since=row.paused_since,
        first=_batch(row, "first") or leased,
        last=_batch(row, "last") or leased,
    )


def _batch(row: Row[Any], which: str) -> WaitingBatch | None:
    fields = row._asdict()
    if fields[f"{which}_not_before"] is None:
        return None
    return WaitingBatch(fields[f"{which}_reason"], fields[f"{which}_not_before"], fields[f"{which}_changed_at"])
