"""Take-backs: leased batches go back to the queue, because what they were claimed under has changed since.

An arm looks at pauses and opt-outs as of the moment its statement began, and commits a little later. Who changes them
takes back what is leased, too, and so meets every such arm at the batch's row: it has committed before him, and is seen
to be armed, or it finds another epoch and fails. Once he has committed, nothing is armed that does not know of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.protocol import BatchState, check_transition

__all__ = ["of_campaign", "with_numbers"]

# As the index batches_lease has it: what is under a lease is little, however much there is.
_TAKE_BACK = f"""
    UPDATE batches b
    SET state = {BatchState.READY}, epoch = epoch + 1, lease_until = NULL, worker = '', updated_at = clock_timestamp()
    WHERE b.state IN ({BatchState.LEASED}, {BatchState.ARMED}) AND b.state = {BatchState.LEASED}
      AND b.tenant_id = :tenant_id
"""
_OF_CAMPAIGN = text(f"{_TAKE_BACK} AND b.campaign_id = :campaign_id")
_WITH_NUMBERS = text(f"""{_TAKE_BACK}
    AND EXISTS (
        SELECT 1 FROM unnest(CAST(:phones AS bigint[])) AS phone WHERE phone BETWEEN b.first_phone AND b.last_phone)
""")


async def of_campaign(connection: AsyncConnection, tenant_id: str, campaign_id: UUID) -> int:
    """LEASED → READY for all of a campaign; returns how many."""
    check_transition(BatchState.LEASED, BatchState.READY)
    parameters = {"tenant_id": tenant_id, "campaign_id": campaign_id}
    return (await connection.execute(_OF_CAMPAIGN, parameters)).rowcount


async def with_numbers(connection: AsyncConnection, tenant_id: str, phones: Sequence[int]) -> int:
    """LEASED → READY for the tenant's batches that one of the numbers may be in; returns how many."""
    check_transition(BatchState.LEASED, BatchState.READY)
    parameters = {"tenant_id": tenant_id, "phones": list(phones)}
    return (await connection.execute(_WITH_NUMBERS, parameters)).rowcount
