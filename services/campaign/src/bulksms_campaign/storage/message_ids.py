"""The provider's message ids: who holds one already. An id is one message's, so a second person's is a mix-up."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.enqueues import EnqueueKey
from servicekit.bulk import raw

# Of whatever tenant: the provider's ids are one space. LATERAL with OFFSET 0 is a fence, as in `reports`: one look into
# the hash index per id. Who holds the very id that is reported of it again is no other.
_HELD_BY_OTHERS = """
    SELECT t.provider_message_id FROM unnest($1::text[], $2::bigint[]) AS t (provider_message_id, phone)
    CROSS JOIN LATERAL (
        SELECT phone, enqueue_number, campaign_id, tenant_id FROM recipients
        WHERE provider_message_id = t.provider_message_id OFFSET 0
    ) r
    WHERE (r.phone, r.enqueue_number, r.campaign_id, r.tenant_id) <> (t.phone, $3, $4, $5)
"""


async def read_ids_of_others(
    connection: AsyncConnection, key: EnqueueKey, ids: Sequence[str], phones: Sequence[int]
) -> set[str]:
    """Those of the ids, phone by phone given to recipients of this enqueue, that somebody else holds already."""
    if not ids:
        return set()
    driver = await raw(connection)
    rows = await driver.fetch(_HELD_BY_OTHERS, ids, phones, key.number, key.campaign_id, key.tenant_id)
    return {row[0] for row in rows}
