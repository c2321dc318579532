"""An enqueue's statements, on asyncpg's connection: its caller waits for each, so they are as few as locks allow."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple
from uuid import UUID

from bulksms_campaign.domain.campaigns import Campaign, Step
from bulksms_campaign.storage.campaigns import campaign_from
from bulksms_campaign.storage.requests import MutationKey, StoredAnswer, checked_answer
from bulksms_campaign.storage.reservations import Reservation
from bulksms_campaign.storage.tables import campaigns
from servicekit import statement_spans


class OvertakenError(Exception):
    """Somebody else's change came first; what was written for this enqueue must be rolled back."""


class Found(NamedTuple):
    """What an enqueue needs to know besides the campaign."""

    answer: StoredAnswer | None
    reachable: int
    """The kept size of the list asked for; 0 when there is no such list."""
    attempts: int
    """Holds written down for the next enqueue number so far."""
    intended: Sequence[tuple[int, int]]
    """Attempt and units of those that were neither adopted nor ended."""


# Not `*`: a column that the next release adds would make every statement prepared before fail once.
_COLUMNS = ", ".join(f'"{column.name}"' for column in campaigns.columns)

# The lock comes first and on its own: under READ COMMITTED a statement sees what was committed before it began, so
# whatever is read after this one is what the holder before left.
_LOCK = f"SELECT {_COLUMNS} FROM campaigns WHERE campaign_id = $1 AND tenant_id = $2 FOR UPDATE"

# A row for each intended hold, or one without. Every join is an index look-up by parameters alone.
_FIND = """
SELECT q.operation, q.content_hash, q.campaign_id, q.created, q.enqueued_jobs,
    coalesce(k.contacts - k.opted_out, 0) AS reachable,
    (SELECT count(*) FROM reservations WHERE campaign_id = $3 AND enqueue_number = $4) AS attempts,
    h.attempt AS intended_attempt, h.units AS intended_units
FROM (SELECT) AS always
LEFT JOIN requests q ON q.tenant_id = $1 AND q.request_id = $2
LEFT JOIN contact_counts k ON k.tenant_id = $1 AND k.group_name = $5
LEFT JOIN reservations h ON h.campaign_id = $3 AND h.enqueue_number = $4 AND h.state = 1
ORDER BY h.attempt
"""

# 1: INTENDED, 3: ABANDONED; 3 as a task's kind: SETTLE. One that was adopted or settled meanwhile stays what it is.
# text[]: of uuid[] asyncpg would have to ask the server, in two statements, once a connection.
_INTEND = """
WITH hold AS (
    INSERT INTO reservations (reservation_id, campaign_id, tenant_id, enqueue_number, attempt, state, units,
        accepted_before, close_attempts, created_at, updated_at)
    VALUES ($1, $2, $3, $4, $5, 1, $6, 0, 0, clock_timestamp(), clock_timestamp())
    RETURNING reservation_id
), abandoned AS (
    UPDATE reservations SET state = 3, updated_at = clock_timestamp()
    WHERE reservation_id = ANY($7::text[]::uuid[]) AND state = 1
    RETURNING reservation_id
)
INSERT INTO tasks AS t (kind, subject, tenant_id, generation, attempts, due_at)
SELECT 3, reservation_id, $3, 1, 0, clock_timestamp() + $8::interval FROM hold
UNION ALL SELECT 3, reservation_id, $3, 1, 0, clock_timestamp() FROM abandoned
ON CONFLICT (kind, subject) DO UPDATE SET generation = t.generation + 1, attempts = 0, due_at = excluded.due_at
"""

# 3: SENDING.
_FLIP = f"""
UPDATE campaigns SET state = 3, revision = revision + 1, updated_at = clock_timestamp(),
    enqueued_at = clock_timestamp(), enqueue_number = $5, reservation_id = $6, traceparent = $7,
    scheduled_at = NULL, ended_at = NULL, snapshot_at = NULL, submitted_at = NULL
WHERE campaign_id = $1 AND tenant_id = $2 AND state = $3 AND revision = $4
RETURNING {_COLUMNS}
"""

# All that goes with the flip, which has locked the campaign; a row only when the hold could be adopted (1 → 2) and
# the request id was free. What the campaign's counter says now is where this reservation's captures start to count.
# Task kinds: 1 LAUNCH, 3 SETTLE, 4 START_SCHEDULED.
_ADOPT = """
WITH adopted AS (
    UPDATE reservations r SET state = 2, updated_at = clock_timestamp(),
        accepted_before = (SELECT accepted FROM campaign_counters k WHERE k.campaign_id = r.campaign_id)
    WHERE reservation_id = $1 AND state = 1
    RETURNING campaign_id, tenant_id, units
), answered AS (
    INSERT INTO requests (tenant_id, request_id, operation, content_hash, campaign_id, created, enqueued_jobs,
        created_at)
    SELECT tenant_id, $3, $4, $5, campaign_id, units, $6, clock_timestamp() FROM adopted
    ON CONFLICT DO NOTHING
    RETURNING request_id
), withdrawn AS (
    DELETE FROM tasks USING adopted WHERE (kind, subject) IN ((3, $1), (4, $2))
), launched AS (
    INSERT INTO tasks AS t (kind, subject, tenant_id, generation, attempts, due_at)
    SELECT 1, campaign_id, tenant_id, 1, 0, clock_timestamp() FROM adopted
    ON CONFLICT (kind, subject) DO UPDATE SET generation = t.generation + 1, attempts = 0, due_at = excluded.due_at
), counted AS (
    UPDATE campaign_counters k SET total = a.units, queued = a.units, sent = 0, failed = 0, unconfirmed = 0,
        cancelled = 0, delivered = 0, accepted = 0, ambiguous = 0, changed_at = clock_timestamp(),
        earlier_at = clock_timestamp(), earlier_processed = 0, later_at = clock_timestamp(), later_processed = 0
    FROM adopted a WHERE k.campaign_id = $2 AND $7
)
INSERT INTO campaign_events (campaign_id, sequence, kind, detail, at)
SELECT campaign_id, (SELECT coalesce(max(sequence), 0) + 1 FROM campaign_events WHERE campaign_id = $2), 'ENQUEUED',
    $8, clock_timestamp()
FROM adopted, answered
RETURNING sequence
"""


async def lock_to_enqueue(driver: Any, tenant_id: str, campaign_id: UUID) -> Campaign | None:
    """One campaign of a tenant, nobody else's to change until the transaction ends."""
    rows = await _fetch(driver, _LOCK, campaign_id, tenant_id)
    return campaign_from(rows[0]) if rows else None


async def find_intentions(driver: Any, key: MutationKey, campaign: Campaign, list_name: str | None) -> Found:
    """What else is known of this locked campaign, and the kept size of a list, if one is named; REQUEST_ID_REUSED."""
    number = campaign.enqueue_number + 1
    rows = await _fetch(driver, _FIND, key.tenant_id, key.request_id, campaign.campaign_id, number, list_name)
    first = rows[0]
    return Found(
        answer=None if first["operation"] is None else checked_answer(key, first),
        reachable=first["reachable"],
        attempts=first["attempts"],
        intended=[
            (row["intended_attempt"], row["intended_units"]) for row in rows if row["intended_attempt"] is not None
        ],
    )


async def write_intention(
    driver: Any, reservation: Reservation, abandoned: Sequence[UUID], settle_after: timedelta
) -> None:
    """Write a hold down, with the task that settles it when nobody adopts it; those `abandoned` are settled at once."""
    held = reservation
    await _fetch(
        driver,
        _INTEND,
        held.reservation_id,
        held.campaign_id,
        held.tenant_id,
        held.enqueue_number,
        held.attempt,
        held.units,
        [str(reservation_id) for reservation_id in abandoned],
        settle_after,
    )


async def flip_to_sending(driver: Any, campaign: Campaign, reservation: Reservation, traceparent: str) -> Campaign:
    """The campaign, SENDING; OvertakenError when it is no longer as it was seen."""
    rows = await _fetch(
        driver,
        _FLIP,
        campaign.campaign_id,
        campaign.tenant_id,
        campaign.state,
        campaign.revision,
        reservation.enqueue_number,
        reservation.reservation_id,
        traceparent,
    )
    if not rows:
        raise OvertakenError
    return campaign_from(rows[0])


async def adopt_hold(
    driver: Any,
    key: MutationKey,
    reservation: Reservation,
    step: Step,
    batches: int,
    detail: str,
) -> None:
    """The hold is the campaign's, the request answered, the launch asked for; at Step.ENQUEUE all count as queued.

    OvertakenError when the hold is not INTENDED any more or the request id has been used.
    """
    rows = await _fetch(
        driver,
        _ADOPT,
        reservation.reservation_id,
        reservation.campaign_id,
        key.request_id,
        key.operation,
        key.content_hash,
        batches,
        step is Step.ENQUEUE,
        detail,
    )
    if not rows:
        raise OvertakenError


async def _fetch(driver: Any, statement: str, *arguments: Any) -> Sequence[Any]:
    with statement_spans.span(statement.split(maxsplit=1)[0], statement):
        rows: Sequence[Any] = await driver.fetch(statement, *arguments)
    return rows
