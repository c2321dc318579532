"""Task rows: work that goes on without a caller, claimed under a lease of database time by one worker at a time."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import IntEnum
from typing import NamedTuple
from uuid import UUID, uuid4

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


class TaskKind(IntEnum):
    """What is to be done; the comment says what the subject is."""

    LAUNCH = 1  # campaign: take the snapshot and submit it
    CONTROL = 2  # campaign: tell the dispatcher to pause, resume or cancel
    SETTLE = 3  # reservation: close it, or find out whether it exists and give it back
    START_SCHEDULED = 4  # campaign: enqueue it when its time has come
    SUPPRESS = 5  # tenant (derived id): tell the dispatcher of opt-outs and opt-ins
    COUNT = 6  # tenant (derived id): count composed audiences whose kept size holds no longer


class Task(NamedTuple):
    """A claimed task. `generation` counts how often it was asked for."""

    kind: TaskKind
    subject: UUID
    tenant_id: str
    generation: int
    attempts: int
    lease_id: UUID


_ASK = text("""
    INSERT INTO tasks AS t (kind, subject, tenant_id, generation, attempts, due_at)
    VALUES (:kind, :subject, :tenant_id, 1, 0,
            coalesce(:due_at, clock_timestamp() + make_interval(secs => :delay_seconds)))
    ON CONFLICT (kind, subject) DO UPDATE
        SET generation = t.generation + 1, attempts = 0, due_at = excluded.due_at
""")

# One task, the one due longest whose lease, if any, has expired. SKIP LOCKED: replicas never wait for each other.
_CLAIM = text("""
    UPDATE tasks t SET lease_id = :lease_id, leased_until = clock_timestamp() + make_interval(secs => :lease_seconds)
    WHERE (kind, subject) = (
        SELECT kind, subject FROM tasks
        WHERE kind = :kind AND due_at <= clock_timestamp()
          AND (leased_until IS NULL OR leased_until < clock_timestamp())
        ORDER BY due_at LIMIT 1 FOR UPDATE SKIP LOCKED
    )
    RETURNING kind, subject, tenant_id, generation, attempts, lease_id
""")

_EXTEND = text("""
    UPDATE tasks SET leased_until = clock_timestamp() + make_interval(secs => :lease_seconds)
    WHERE kind = :kind AND subject = :subject AND lease_id = :lease_id
""")

_DELETE = text("""
    DELETE FROM tasks
    WHERE kind = :kind AND subject = :subject AND lease_id = :lease_id AND generation = :generation
""")

# Asked for again meanwhile: its own due time stays.
_RELEASE = text("""
    UPDATE tasks SET lease_id = NULL, leased_until = NULL,
        attempts = CASE WHEN generation = :generation THEN attempts + :failed ELSE attempts END,
        due_at = CASE WHEN generation = :generation
                      THEN clock_timestamp() + make_interval(secs => :delay_seconds) ELSE due_at END
    WHERE kind = :kind AND subject = :subject AND lease_id = :lease_id
""")

_WITHDRAW = text("DELETE FROM tasks WHERE kind = :kind AND subject = :subject")


async def ask_for_task(
    connection: AsyncConnection,
    kind: TaskKind,
    subject: UUID,
    tenant_id: str,
    *,
    due_at: datetime | None = None,
    delay: timedelta = timedelta(0),
) -> None:
    """Ask for a task, or ask again: one under way is then done once more afterwards."""
    arguments = {"kind": kind, "subject": subject, "tenant_id": tenant_id}
    await connection.execute(_ASK, {**arguments, "due_at": due_at, "delay_seconds": delay.total_seconds()})


async def withdraw_task(connection: AsyncConnection, kind: TaskKind, subject: UUID) -> None:
    """Nobody needs to do it any more."""
    await connection.execute(_WITHDRAW, {"kind": kind, "subject": subject})


async def claim_task(connection: AsyncConnection, kind: TaskKind, lease: timedelta) -> Task | None:
    """Claim the task of this kind that is due longest."""
    arguments = {"kind": kind, "lease_id": uuid4(), "lease_seconds": lease.total_seconds()}
    row = (await connection.execute(_CLAIM, arguments)).one_or_none()
    return None if row is None else Task(TaskKind(row[0]), *row[1:])


async def extend_lease(connection: AsyncConnection, task: Task, lease: timedelta) -> bool:
    """Keep a claim alive; False when it was lost."""
    arguments = {**_key(task), "lease_seconds": lease.total_seconds()}
    return (await connection.execute(_EXTEND, arguments)).rowcount == 1


async def finish_task(connection: AsyncConnection, task: Task) -> None:
    """Done: it goes, or, asked for again meanwhile, is due again."""
    deleted = await connection.execute(_DELETE, {**_key(task), "generation": task.generation})
    if deleted.rowcount == 0:
        await _release(connection, task, timedelta(0), failed=0)


async def postpone_task(connection: AsyncConnection, task: Task, delay: timedelta) -> None:
    """Not done yet: due again after `delay`, one attempt more."""
    await _release(connection, task, delay, failed=1)


async def hand_back_task(connection: AsyncConnection, task: Task) -> None:
    """Not done, for no fault of the task's: due at once, for any worker."""
    await _release(connection, task, timedelta(0), failed=0)


async def _release(connection: AsyncConnection, task: Task, delay: timedelta, *, failed: int) -> None:
    await connection.execute(
        _RELEASE,
        {**_key(task), "generation": task.generation, "delay_seconds": delay.total_seconds(), "failed": failed},
    )


def _key(task: Task) -> dict[str, object]:
    return {"kind": task.kind, "subject": task.subject, "lease_id": task.lease_id}
