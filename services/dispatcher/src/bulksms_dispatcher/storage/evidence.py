"""Evidence: reports for message ids nobody knows, and the unresolved batches they may be of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum
from typing import Any
from uuid import UUID

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.protocol import BatchState
from bulksms_dispatcher.domain.provider_records import ProviderRecord
from bulksms_dispatcher.domain.results import OPERATOR
from bulksms_dispatcher.domain.unresolved import Unresolved

__all__ = [
    "Candidate",
    "EvidenceState",
    "OpenReport",
    "assign",
    "count_open",
    "find_candidates",
    "find_indistinguishable",
    "find_unresolved",
    "give_up",
    "has_candidates",
    "is_named",
    "is_of_accepted_batch",
    "lock_unresolved",
    "note",
    "postpone",
    "read_ids",
    "save_provider_record",
    "take_open",
]


class EvidenceState(IntEnum):
    """Where a report for an unknown id is; the numbers are stored."""

    OPEN = 1
    MATCHED = 2
    UNMATCHED = 3


@dataclass(frozen=True, slots=True)
class OpenReport:
    """A report to be looked into."""

    provider_message_id: str
    attempts: int
    provider_record: ProviderRecord | None
    """What the provider said of it, when it was asked before."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A batch a provider record may be of; armed too long before it when not `in_window`."""

    batch: Unresolved
    in_window: bool


# As the index batches_without_ids has it.
_WITHOUT_IDS = f"""(b.state IN ({BatchState.AMBIGUOUS}, {BatchState.UNRESOLVED})
    OR (b.state IN ({BatchState.ACCEPTED}, {BatchState.REJECTED}) AND b.reason = '{OPERATOR}'))"""
_HAS_CANDIDATES = text(f"""
    SELECT EXISTS (SELECT 1 FROM batches b WHERE {_WITHOUT_IDS})
        OR EXISTS (SELECT 1 FROM batches b WHERE b.state IN ({BatchState.LEASED}, {BatchState.ARMED})
                   AND b.state = {BatchState.ARMED})
""")
_COUNT_OPEN = text(f"SELECT count(*) FROM evidence WHERE state = {EvidenceState.OPEN}")
_NOTE = text("""
    INSERT INTO evidence (provider_message_id, raw_status)
    SELECT * FROM unnest(CAST(:ids AS text[]), CAST(:raw AS text[])) AS r (id, raw) ORDER BY id
    ON CONFLICT DO NOTHING
""")
# Taking is hiding: who dies in the middle leaves it to be taken again.
_TAKE = text(f"""
    WITH due AS (
        SELECT provider_message_id FROM evidence
        WHERE state = {EvidenceState.OPEN} AND next_attempt_at <= now()
        ORDER BY next_attempt_at LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    UPDATE evidence e
    SET attempts = attempts + 1, next_attempt_at = clock_timestamp() + make_interval(secs => :hide_seconds)
    FROM due WHERE e.provider_message_id = due.provider_message_id
    RETURNING e.provider_message_id, e.attempts, e.provider_phone, e.provider_texts, e.provider_created_at,
              e.provider_sender
""")
_POSTPONE = text(f"""
    UPDATE evidence SET reason = :reason, next_attempt_at = clock_timestamp() + make_interval(secs => :delay_seconds)
    WHERE provider_message_id = :id AND state = {EvidenceState.OPEN}
""")
_GIVE_UP = text(f"""
    UPDATE evidence SET state = {EvidenceState.UNMATCHED}, reason = :reason
    WHERE provider_message_id = :id AND state = {EvidenceState.OPEN}
""")
_SAVE_PROVIDER_RECORD = text("""
    UPDATE evidence SET provider_phone = :phone, provider_texts = CAST(:texts AS bytea[]), provider_created_at = :at,
                        provider_sender = :sender
    WHERE provider_message_id = :id
""")
_INDISTINGUISHABLE = text(f"""
    SELECT provider_message_id FROM evidence
    WHERE state = {EvidenceState.OPEN} AND provider_phone = CAST(:phone AS bigint)
      AND provider_texts && CAST(:texts AS bytea[]) AND provider_sender IS NOT DISTINCT FROM CAST(:sender AS text)
    ORDER BY provider_created_at, provider_message_id
""")
_COLUMNS = """b.batch_id, b.epoch, b.state, b.reason, b.campaign_id, b.submission_id, b.evidenced, b.packed,
              b.opted_out_positions, s.text, s.sender, s.variable_names"""
_FIND = text(f"""
    SELECT {_COLUMNS} FROM batches b JOIN submissions s ON s.submission_id = b.submission_id
    WHERE b.batch_id = :batch_id
""")
_LOCK = text(f"""
    SELECT {_COLUMNS} FROM batches b JOIN submissions s ON s.submission_id = b.submission_id
    WHERE b.batch_id = :batch_id FOR UPDATE OF b
""")
# Its last attempt is the one that counts: the earlier ones were provably not accepted. On the wire are candidates too:
# while one of them may be what the provider has, nothing else can be. Those armed long before are rivals, but no match:
# a worker that was frozen between arming and sending sends late.
_CANDIDATES = text(f"""
    SELECT {_COLUMNS}, a.armed_at, a.armed_at >= CAST(:earliest AS timestamptz) AS in_window FROM (
        SELECT b.* FROM batches b WHERE {_WITHOUT_IDS}
            AND (b.state = {BatchState.AMBIGUOUS} OR b.updated_at >= CAST(:earliest AS timestamptz))
        UNION ALL
        SELECT b.* FROM batches b WHERE b.state IN ({BatchState.LEASED}, {BatchState.ARMED})
                                    AND b.state = {BatchState.ARMED}
    ) b
    JOIN attempts a ON a.batch_id = b.batch_id AND a.number = b.attempts
    JOIN submissions s ON s.submission_id = b.submission_id
    WHERE CAST(:phone AS bigint) BETWEEN b.first_phone AND b.last_phone
      AND a.armed_at <= CAST(:latest AS timestamptz)
    ORDER BY a.armed_at, b.batch_id LIMIT :limit
""")
# The responses of the time in question, few of which are about this number; only theirs are searched.
_IS_KNOWN = text("""
    SELECT EXISTS (
        SELECT 1 FROM provider_responses r JOIN batches b ON b.batch_id = r.batch_id
        WHERE r.received_at >= CAST(:earliest AS timestamptz)
          AND CAST(:phone AS bigint) BETWEEN b.first_phone AND b.last_phone
          AND position(convert_to(CAST(:id AS text), 'UTF8') IN coalesce(r.message_ids, ''::bytea)) > 0)
""")
_TAKEN = text(f"""
    SELECT provider_message_id FROM evidence
    WHERE batch_id = :batch_id AND position = :position AND state = {EvidenceState.MATCHED}
""")
_MATCH = text(f"""
    UPDATE evidence SET state = {EvidenceState.MATCHED}, reason = '', batch_id = :batch_id, position = :position
    WHERE provider_message_id = :id AND state = {EvidenceState.OPEN}
""")
# Not `updated_at`: the horizon of those that are not named goes on.
_COUNT_UP = text("UPDATE batches SET evidenced = evidenced + 1 WHERE batch_id = :batch_id RETURNING evidenced")
_IDS = text(f"""
    SELECT position, provider_message_id FROM evidence
    WHERE batch_id = :batch_id AND state = {EvidenceState.MATCHED} ORDER BY position
""")


async def has_candidates(connection: AsyncConnection) -> bool:
    """True when any batch is on the wire, or was sent and has no message ids."""
    return bool((await connection.execute(_HAS_CANDIDATES)).scalar_one())


async def count_open(connection: AsyncConnection) -> int:
    """Reports still to be looked into."""
    return int((await connection.execute(_COUNT_OPEN)).scalar_one())


async def note(connection: AsyncConnection, reports: Sequence[tuple[str, str]]) -> int:
    """Keep (message id, raw status) of reports; returns how many are new."""
    parameters = {"ids": [report[0] for report in reports], "raw": [report[1] for report in reports]}
    return (await connection.execute(_NOTE, parameters)).rowcount


async def take_open(connection: AsyncConnection, limit: int, hide: timedelta) -> list[OpenReport]:
    """Up to `limit` due reports, hidden from everybody else for a while."""
    parameters = {"limit": limit, "hide_seconds": hide.total_seconds()}
    return [
        OpenReport(
            row.provider_message_id,
            row.attempts,
            None if row.provider_created_at is None else _provider_record(row),
        )
        for row in await connection.execute(_TAKE, parameters)
    ]


async def save_provider_record(connection: AsyncConnection, message_id: str, provider_record: ProviderRecord) -> None:
    """Keep what the provider said: it is not asked again."""
    parameters = {
        "id": message_id,
        "phone": provider_record.destination,
        "texts": sorted(provider_record.texts),
        "at": provider_record.created_at,
        "sender": provider_record.sender,
    }
    await connection.execute(_SAVE_PROVIDER_RECORD, parameters)


async def find_indistinguishable(connection: AsyncConnection, provider_record: ProviderRecord) -> list[str]:
    """Message ids of open reports that cannot be distinguished from this one, in the order of their messages."""
    parameters = {
        "phone": provider_record.destination,
        "texts": sorted(provider_record.texts),
        "sender": provider_record.sender,
    }
    return [str(found) for found in (await connection.execute(_INDISTINGUISHABLE, parameters)).scalars()]


async def postpone(connection: AsyncConnection, message_id: str, delay: timedelta, reason: str) -> None:
    """Look into it again later."""
    parameters = {"id": message_id, "delay_seconds": delay.total_seconds(), "reason": reason}
    await connection.execute(_POSTPONE, parameters)


async def give_up(connection: AsyncConnection, message_id: str, reason: str) -> None:
    """It proves nothing; it stays, with the reason."""
    await connection.execute(_GIVE_UP, {"id": message_id, "reason": reason})


async def find_candidates(
    connection: AsyncConnection, phone: int, earliest: datetime, latest: datetime, limit: int
) -> list[Candidate]:
    """Batches with this number in their range, armed before `latest`, whose ids nobody knows; in order of arming."""
    parameters = {"phone": phone, "earliest": earliest, "latest": latest, "limit": limit}
    rows = await connection.execute(_CANDIDATES, parameters)
    return [Candidate(_unresolved(row), row.in_window) for row in rows]


async def is_of_accepted_batch(connection: AsyncConnection, message_id: str, phone: int, earliest: datetime) -> bool:
    """True when a recorded response gave this id out: then it proves nothing about any other batch."""
    parameters = {"id": message_id, "phone": phone, "earliest": earliest}
    return bool((await connection.execute(_IS_KNOWN, parameters)).scalar_one())


async def find_unresolved(connection: AsyncConnection, batch_id: UUID) -> Unresolved | None:
    """Read a batch in whatever state it is."""
    row = (await connection.execute(_FIND, {"batch_id": batch_id})).one_or_none()
    return None if row is None else _unresolved(row)


async def lock_unresolved(connection: AsyncConnection, batch_id: UUID) -> Unresolved | None:
    """The same, and nobody else changes it until the transaction ends."""
    row = (await connection.execute(_LOCK, {"batch_id": batch_id})).one_or_none()
    return None if row is None else _unresolved(row)


async def is_named(connection: AsyncConnection, batch_id: UUID, position: int) -> bool:
    """True when evidence has given this recipient his id: no other id can be his."""
    parameters = {"batch_id": batch_id, "position": position}
    return (await connection.execute(_TAKEN, parameters)).scalar_one_or_none() is not None


async def assign(connection: AsyncConnection, message_id: str, batch_id: UUID, position: int) -> str:
    """Give the id to a recipient of a locked batch; returns the id he has: another one when he had one before."""
    parameters = {"batch_id": batch_id, "position": position}
    taken = (await connection.execute(_TAKEN, parameters)).scalar_one_or_none()
    if taken is not None:
        return str(taken)
    if (await connection.execute(_MATCH, parameters | {"id": message_id})).rowcount:
        await connection.execute(_COUNT_UP, {"batch_id": batch_id})
        return message_id
    return ""


async def read_ids(connection: AsyncConnection, batch_id: UUID) -> dict[int, str]:
    """Position → message id of the recipients that evidence has named, ascending."""
    return {row.position: row.provider_message_id for row in await connection.execute(_IDS, {"batch_id": batch_id})}


def _provider_record(row: Row[Any]) -> ProviderRecord:
    return ProviderRecord(
        row.provider_phone,
        frozenset(bytes(digest) for digest in row.provider_texts),
        row.provider_created_at,
        row.provider_sender,
    )


def _unresolved(row: Row[Any]) -> Unresolved:
    fields = row._asdict() | {"state": BatchState(row.state)}
    fields.pop("in_window", None)
    fields.pop("armed_at", None)
    return Unresolved(**fields)
