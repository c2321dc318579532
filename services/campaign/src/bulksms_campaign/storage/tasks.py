"""Task rows: work that goes on without a caller, claimed under a lease of database time by one worker at a time."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import IntEnum
from typing import NamedTuple
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_campaign.storage.instants import read_instant


class TaskKind(IntEnum):
    """What is to be done; the comment says what the subject is."""

    LAUNCH = 1  # campaign: take the snapshot and submit it
    CONTROL = 2  # campaign: have the dispatcher pause, resume or cancel it
    CLOSE_RESERVATION = 3  # reservation: close it, or find out whether it exists and give it back
    START_SCHEDULED = 4  # campaign: enqueue it when its time has come
    DELIVER_OPT_OUTS = 5  # tenant (derived id): deliver opt-outs and opt-ins to the dispatcher
    COUNT = 6  # tenant (derived id): count composed audiences whose cached size is out of date
    COMPLETE = 7  # campaign: end it, if it is submitted and no recipient waits to be sent to
    WATCH_HOLD = 8  # campaign: find out what keeps it from being sent, again and again while it is under way


class Task(NamedTuple):
    """A claimed task. `generation` counts how often it was asked for."""

    tenant_id: str
    kind: TaskKind
    subject: UUID
    generation: int
    attempts: int
    lease_id: UUID


_ASK = text("""
    INSERT INTO tasks AS t (tenant_id, kind, subject, generation, attempts, due_at)
    VALUES (:tenant_id, :kind, :subject, 1, 0, :due_at)
    ON CONFLICT (tenant_id, kind, subject) DO UPDATE
        SET generation = t.generation + 1, attempts = 0, due_at = excluded.due_at
""")

# One task, the one due longest whose lease, if any, has expired, whichever tenant's it is: workers serve all of them.
# By the clock as it is when the row is looked at. SKIP LOCKED: replicas never wait for each other.
_CLAIM = text("""
    UPDATE tasks t SET lease_id = :lease_id, leased_until = clock_timestamp() + make_interval(secs => :lease_seconds)
    WHERE (tenant_id, kind, subject) = (
        SELECT tenant_id, kind, subject FROM tasks
        WHERE kind = :kind AND due_at <= clock_timestamp()
          AND (leased_until IS NULL OR leased_until < clock_timestamp())
        ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED
    )
    RETURNING tenant_id, kind, subject, generation, attempts, lease_id
""")

_CLAIMED = "tenant_id = :tenant_id AND kind = :kind AND subject = :subject AND lease_id = :lease_id"

_EXTEND = text(f"UPDATE tasks SET leased_until = :leased_until WHERE {_CLAIMED}")

_FINISH = text(f"DELETE FROM tasks WHERE {_CLAIMED} AND generation = :generation")

_LET_GO = text(f"UPDATE tasks SET lease_id = NULL, leased_until = NULL WHERE {_CLAIMED}")

# Asked for again meanwhile: its own due time stays.
_POSTPONE = text(f"""
    UPDATE tasks SET lease_id = NULL, leased_until = NULL,
        attempts = CASE WHEN generation = :generation THEN attempts + 1 ELSE attempts END,
        due_at = CASE WHEN generation = :generation THEN :due_at ELSE due_at END
    WHERE {_CLAIMED}
""")

_WITHDRAW = text("DELETE FROM tasks WHERE tenant_id = :tenant_id AND kind = :kind AND subject = :subject")


async def ask_for_task(
    connection: AsyncConnection, kind: TaskKind, tenant_id: str, subject: UUID, due_at: datetime
) -> None:
    """Ask for a task, or ask again: one under way is then done once more afterwards."""
    arguments = {"tenant_id": tenant_id, "kind": kind, "subject": subject, "due_at": due_at}
    await connection.execute(_ASK, arguments)


async def withdraw_task(connection: AsyncConnection, kind: TaskKind, tenant_id: str, subject: UUID) -> None:
    """Nobody needs to do it any more."""
    await connection.execute(_WITHDRAW, {"tenant_id": tenant_id, "kind": kind, "subject": subject})


async def claim_task(connection: AsyncConnection, kind: TaskKind, lease: timedelta) -> Task | None:
    """Claim the task of this kind that is due longest."""
    arguments = {"kind": kind, "lease_id": uuid4(), "lease_seconds": lease.total_seconds()}
    row = (await connection.execute(_CLAIM, arguments)).one_or_none()
    return None if row is None else Task(row[0], TaskKind(row[1]), *row[2:])


async def extend_lease(connection: AsyncConnection, task: Task, lease: timedelta) -> bool:
    """Keep a claim alive; False when it was lost."""
    now = await read_instant(connection)
    return (await connection.execute(_EXTEND, {**_claimed(task), "leased_until": now + lease})).rowcount == 1


async def finish_task(connection: AsyncConnection, task: Task) -> None:
    """Done: it goes, or, asked for again meanwhile, is due again."""
    deleted = await connection.execute(_FINISH, {**_claimed(task), "generation": task.generation})
    if deleted.rowcount == 0:
        await connection.execute(_LET_GO, _claimed(task))


async def postpone_task(connection: AsyncConnection, task: Task, delay: timedelta) -> None:
    """Not done yet: due again after `delay`, one attempt more."""
    now = await read_instant(connection)
    await connection.execute(_POSTPONE, {**_claimed(task), "generation": task.generation, "due_at": now + delay})


async def hand_back_task(connection: AsyncConnection, task: Task) -> None:
    """Not done, for no fault of the task's: due still, for any worker."""
    await connection.execute(_LET_GO, _claimed(task))


def _claimed(task: Task) -> dict[str, object]:
    return {"tenant_id": task.tenant_id, "kind": task.kind, "subject": task.subject, "lease_id": task.lease_id}
