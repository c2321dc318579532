"""Counters: a row per enqueue, moved in the transaction that changes its recipients; a campaign's are their sum."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import Row, and_, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.domain.counters import COUNTER_NAMES, Counters
from bulksms_campaign.domain.enqueues import EnqueueKey
from bulksms_campaign.domain.rates import SAMPLE_EVERY, RateSamples, Sample
from bulksms_campaign.storage.tables import campaigns, enqueues


class CampaignCounters(NamedTuple):
    """A campaign's counters, those of its latest enqueue, and the samples that one's rate is computed from."""

    counters: Counters
    latest: Counters
    samples: RateSamples
    now: datetime
    """When the database read them."""


# The older sample is replaced once the newer one is old enough, so a rate is over the last two to four seconds.
_MOVE = text(f"""
    UPDATE enqueues SET
        {", ".join(f"{name} = {name} + :{name}" for name in COUNTER_NAMES)},
        changed_at = greatest(changed_at, :now),
        earlier_at = CASE WHEN later_at IS NULL THEN :now WHEN later_at < :sample_due THEN later_at
                          ELSE earlier_at END,
        earlier_processed = CASE WHEN later_at IS NULL THEN sent + failed
                                 WHEN later_at < :sample_due THEN later_processed ELSE earlier_processed END,
        later_at = CASE WHEN later_at >= :sample_due THEN later_at ELSE :now END,
        later_processed = CASE WHEN later_at >= :sample_due THEN later_processed ELSE sent + failed END
    WHERE tenant_id = :tenant_id AND campaign_id = :campaign_id AND enqueue_number = :number
    RETURNING {", ".join(COUNTER_NAMES)}
""")


async def move_counters(connection: AsyncConnection, key: EnqueueKey, moved: Counters, now: datetime) -> Counters:
    """Add `moved`, which may be negative, to an enqueue's counters; returns them as they are then. Locks its row."""
    values = {name: getattr(moved, name) for name in COUNTER_NAMES}
    of_enqueue = {"tenant_id": key.tenant_id, "campaign_id": key.campaign_id, "number": key.number}
    instants = {"now": now, "sample_due": now - SAMPLE_EVERY}
    return _counters((await connection.execute(_MOVE, {**of_enqueue, **instants, **values})).one())


async def read_counters(
    connection: AsyncConnection, tenant_id: str, campaign_ids: Sequence[UUID]
) -> dict[UUID, CampaignCounters]:
    """Counters of some campaigns of a tenant."""
    own = and_(enqueues.c.tenant_id == tenant_id, enqueues.c.campaign_id == campaigns.c.campaign_id)
    query = (
        select(campaigns.c.campaign_id.label("of_campaign"), func.clock_timestamp().label("now"), enqueues)
        .select_from(campaigns.outerjoin(enqueues, own))
        .where(campaigns.c.tenant_id == tenant_id, campaigns.c.campaign_id.in_(campaign_ids))
        .order_by(enqueues.c.enqueue_number)
    )
    found: dict[UUID, CampaignCounters] = {}
    for row in await connection.execute(query):
        before = found[row.of_campaign].counters if row.of_campaign in found else Counters()
        latest = Counters() if row.enqueue_number is None else _counters(row)
        found[row.of_campaign] = CampaignCounters(before.plus(latest), latest, _samples(row), row.now)
    return found


async def lock_counters(connection: AsyncConnection, tenant_id: str, campaign_id: UUID) -> Counters:
    """A campaign's counters, nobody else's to move until the transaction ends."""
    query = (
        select(enqueues)
        .where(enqueues.c.tenant_id == tenant_id, enqueues.c.campaign_id == campaign_id)
        .order_by(enqueues.c.enqueue_number)
        .with_for_update()
    )
    counters = Counters()
    for row in await connection.execute(query):
        counters = counters.plus(_counters(row))
    return counters


def _samples(row: Row[Any]) -> RateSamples:
    earlier = Sample(row.earlier_at, row.earlier_processed) if row.earlier_at is not None else None
    later = Sample(row.later_at, row.later_processed) if row.later_at is not None else None
    return RateSamples(earlier, later, row.changed_at)


def _counters(row: Row[Any]) -> Counters:
    return Counters(*(getattr(row, name) for name in COUNTER_NAMES))
