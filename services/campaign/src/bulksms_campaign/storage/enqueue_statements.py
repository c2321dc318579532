"""An enqueue's statements, on asyncpg's connection: its caller waits for each, so they are as few as locks allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from bulksms_campaign.domain.campaigns import Campaign, CampaignState
from bulksms_campaign.domain.enqueues import EnqueueKey, EnqueueRecord
from bulksms_campaign.domain.events import EventKind
from bulksms_campaign.storage.campaigns import LockedCampaign, campaign_from
from bulksms_campaign.storage.requests import MutationKey, StoredResult, checked_result
from bulksms_campaign.storage.reservations import Reservation, ReservationState
from bulksms_campaign.storage.tables import campaigns
from bulksms_campaign.storage.tasks import TaskKind
from servicekit import statement_spans


class OvertakenError(Exception):
    """Somebody else's change came first; what was written for this enqueue must be rolled back."""


class Found(NamedTuple):
    """What an enqueue needs to know besides the campaign."""

    result: StoredResult | None
    reachable: int
    """The cached size of the list asked for; 0 when there is no such list."""
    attempts: int
    """Reservations recorded for the next enqueue number so far."""
    requested: Sequence[tuple[int, int]]
    """Attempt and units of those that were neither confirmed nor ended."""


# Not `*`: a column that the next release adds would make every statement prepared before fail once.
_COLUMNS = ", ".join(f'"{column.name}"' for column in campaigns.columns)

# The lock comes first and on its own: under READ COMMITTED a statement sees what was committed before it began, so
# whatever is read after this one is what the transaction before left. With it comes the instant of the transaction.
_LOCK = f"""
SELECT {_COLUMNS}, clock_timestamp() AS now FROM campaigns WHERE tenant_id = $1 AND campaign_id = $2 FOR UPDATE
"""

# A row for each requested reservation, or one without. Every join is an index look-up by parameters alone.
_FIND = f"""
SELECT q.operation, q.content_hash, q.campaign_id, q.created, q.enqueued_jobs,
    coalesce(k.contacts - k.opted_out, 0) AS reachable,
    (SELECT count(*) FROM reservations WHERE tenant_id = $1 AND campaign_id = $3 AND enqueue_number = $4) AS attempts,
    r.attempt AS requested_attempt, r.units AS requested_units
FROM (SELECT) AS always
LEFT JOIN requests q ON q.tenant_id = $1 AND q.request_id = $2
LEFT JOIN contact_counts k ON k.tenant_id = $1 AND k.group_name = $5
LEFT JOIN reservations r ON r.tenant_id = $1 AND r.campaign_id = $3 AND r.enqueue_number = $4
    AND r.state = {int(ReservationState.REQUESTED)}
ORDER BY r.attempt
"""

# One that was confirmed or closed meanwhile stays what it is.
# text[]: of uuid[] asyncpg would have to ask the server, in two statements, once a connection.
_REQUEST = f"""
WITH requested AS (
    INSERT INTO reservations (tenant_id, reservation_id, campaign_id, enqueue_number, attempt, state, units,
        close_attempts, created_at, updated_at)
    VALUES ($1, $2, $3, $4, $5, {int(ReservationState.REQUESTED)}, $6, 0, $8, $8)
    RETURNING reservation_id
), abandoned AS (
    UPDATE reservations SET state = {int(ReservationState.ABANDONED)}, updated_at = $8
    WHERE tenant_id = $1 AND reservation_id = ANY($7::text[]::uuid[])
      AND state = {int(ReservationState.REQUESTED)}
    RETURNING reservation_id
)
INSERT INTO tasks AS t (tenant_id, kind, subject, generation, attempts, due_at)
SELECT $1, {int(TaskKind.CLOSE_RESERVATION)}, reservation_id, 1, 0, $9::timestamptz FROM requested
UNION ALL SELECT $1, {int(TaskKind.CLOSE_RESERVATION)}, reservation_id, 1, 0, $8::timestamptz FROM abandoned
ON CONFLICT (tenant_id, kind, subject) DO UPDATE
    SET generation = t.generation + 1, attempts = 0, due_at = excluded.due_at
"""

# All that starts the sending of a locked campaign; rows only when the reservation could be confirmed and the request id
# was free. At the first enqueue the whole audience counts as queued at once, at a later one what the snapshot finds.
_START = f"""
WITH confirmed AS (
    UPDATE reservations SET state = {int(ReservationState.CONFIRMED)}, updated_at = $10
    WHERE tenant_id = $1 AND reservation_id = $3 AND state = {int(ReservationState.REQUESTED)}
    RETURNING units, enqueue_number
), recorded AS (
    INSERT INTO requests (tenant_id, request_id, operation, content_hash, campaign_id, created, enqueued_jobs,
        created_at)
    SELECT $1, $4, $5, $6, $2, units, $7, $10 FROM confirmed
    ON CONFLICT DO NOTHING
    RETURNING request_id
), withdrawn AS (
    DELETE FROM tasks USING confirmed WHERE tenant_id = $1
        AND (kind, subject) IN (({int(TaskKind.CLOSE_RESERVATION)}, $3), ({int(TaskKind.START_SCHEDULED)}, $2))
), launched AS (
    INSERT INTO tasks AS t (tenant_id, kind, subject, generation, attempts, due_at)
    SELECT $1, kind, $2, 1, 0, $10 FROM confirmed
        CROSS JOIN (VALUES ({int(TaskKind.LAUNCH)}), ({int(TaskKind.WATCH_HOLD)})) AS k (kind)
    ON CONFLICT (tenant_id, kind, subject) DO UPDATE
        SET generation = t.generation + 1, attempts = 0, due_at = excluded.due_at
), enqueued AS (
    INSERT INTO enqueues (tenant_id, campaign_id, enqueue_number, launched_on, reservation_id, enqueued_at, traceparent,
        total, queued, changed_at, earlier_at, later_at)
    SELECT $1, $2, enqueue_number, $12, $3, $10, $11, $8, $8, $10, $10, $10 FROM confirmed
), noted AS (
    INSERT INTO campaign_events (tenant_id, campaign_id, sequence, kind, detail, at)
    SELECT $1, $2, (SELECT coalesce(max(sequence), 0) + 1 FROM campaign_events
        WHERE tenant_id = $1 AND campaign_id = $2), {int(EventKind.ENQUEUED)}, $9, $10
    FROM confirmed
)
UPDATE campaigns SET state = {int(CampaignState.SENDING)}, revision = revision + 1, updated_at = $10,
    enqueue_number = c.enqueue_number, scheduled_at = NULL, ended_at = NULL
FROM confirmed c, recorded
WHERE tenant_id = $1 AND campaign_id = $2
RETURNING {", ".join(f'campaigns."{column.name}"' for column in campaigns.columns)}
"""


async def lock_to_enqueue(driver: Any, tenant_id: str, campaign_id: UUID) -> LockedCampaign | None:
    """One campaign of a tenant, nobody else's to change until the transaction ends."""
    rows = await _fetch(driver, _LOCK, tenant_id, campaign_id)
    return LockedCampaign(campaign_from(rows[0]), rows[0]["now"]) if rows else None


async def find_requested(driver: Any, key: MutationKey, campaign: Campaign, list_name: str | None) -> Found:
    """What else is known of this locked campaign, and the cached size of a list, if one is named; REQUEST_ID_REUSED."""
    number = campaign.enqueue_number + 1
    rows = await _fetch(driver, _FIND, key.tenant_id, key.request_id, campaign.campaign_id, number, list_name)
    first = rows[0]
    return Found(
        result=None if first["operation"] is None else checked_result(key, first),
        reachable=first["reachable"],
        attempts=first["attempts"],
        requested=[
            (row["requested_attempt"], row["requested_units"]) for row in rows if row["requested_attempt"] is not None
        ],
    )


async def record_request(
    driver: Any, reservation: Reservation, abandoned: Sequence[UUID], now: datetime, close_after: timedelta
) -> None:
    """Record a reservation before the ledger is asked, with the task that closes it when nobody confirms it.

    Those `abandoned` are closed at once.
    """
    await _fetch(
        driver,
        _REQUEST,
        reservation.tenant_id,
        reservation.reservation_id,
        reservation.campaign_id,
        reservation.enqueue_number,
        reservation.attempt,
        reservation.units,
        [str(reservation_id) for reservation_id in abandoned],
        now,
        now + close_after,
    )


async def start_sending(
    driver: Any,
    key: MutationKey,
    reservation: Reservation,
    queued: int,
    batches: int,
    detail: str,
    traceparent: str,
    now: datetime,
) -> Campaign:
    """Confirm the reservation, record the request, ask for the launch; the campaign, SENDING.

    `queued` recipients count as queued before the snapshot. OvertakenError when the reservation is not REQUESTED any
    more or the request id has been used.
    """
    rows = await _fetch(
        driver,
        _START,
        reservation.tenant_id,
        reservation.campaign_id,
        reservation.reservation_id,
        key.request_id,
        key.operation,
        key.content_hash,
        batches,
        queued,
        detail,
        now,
        traceparent,
        now.date(),
    )
    if not rows:
        raise OvertakenError
    campaign = campaign_from(rows[0])
    enqueue = EnqueueRecord(
        key=EnqueueKey(campaign.tenant_id, campaign.campaign_id, campaign.enqueue_number, now.date()),
        reservation_id=reservation.reservation_id,
        enqueued_at=now,
        traceparent=traceparent,
    )
    return replace(campaign, enqueue=enqueue)


async def _fetch(driver: Any, statement: str, *arguments: Any) -> Sequence[Any]:
    with statement_spans.span(statement.split(maxsplit=1)[0], statement):
        rows: Sequence[Any] = await driver.fetch(statement, *arguments)
    return rows
