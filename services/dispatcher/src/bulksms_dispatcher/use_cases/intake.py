"""Intake: a submission's stream becomes durable batch by batch, resumable anywhere, in bounded memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.submissions import Cutter, Submission, SubmissionProgress
from bulksms_dispatcher.storage import campaigns, submissions
from servicekit import errors
from servicekit.clock import Clock
from servicekit.database import Database
from servicekit.errors import FieldViolation

__all__ = ["Chunk", "End", "Intake"]

_BACKLOG_FRESH_SECONDS = 1.0
_RETRY_AFTER = timedelta(seconds=5)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive recipients."""

    first_index: int
    phones: list[int]
    values: list[str]


@dataclass(frozen=True, slots=True)
class End:
    """All recipients were streamed; so many there are."""

    recipients: int


class Intake:
    """Stores submissions."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        batch_size: int,
        backlog_limit: int,
        on_stored: Callable[[], None],
    ) -> None:
        self._database = database
        self._clock = clock
        self._batch_size = batch_size
        self._backlog_limit = backlog_limit
        self._on_stored = on_stored
        self._backlog = 0
        self._backlog_read_at = float("-inf")

    async def submit(self, submission: Submission, parts: AsyncIterator[Chunk | End]) -> SubmissionProgress:
        """Take a stream to its end; what was stored stays stored when it breaks."""
        progress = await self._open(submission)
        cutter = Cutter(self._batch_size, len(submission.variable_names), progress)
        async for part in parts:
            if isinstance(part, End):
                return await self._finish(submission, cutter, part)
            cutter.add(part.first_index, part.phones, part.values)
            while cutter.has_batch:
                await self._store(submission, cutter)
        raise errors.invalid_argument(
            "INVALID_ARGUMENT",
            "The stream ended without its end message: what was stored stays; go on from GetSubmission's next_index.",
            violations=[FieldViolation("end", "must be the last message")],
        )

    async def find(self, tenant_id: str, submission_id: UUID) -> SubmissionProgress:
        """How far a submission is stored."""
        async with self._database.connect() as connection:
            stored = await submissions.find(connection, tenant_id, submission_id)
        if stored is None:
            raise errors.not_found(
                "SUBMISSION_NOT_FOUND",
                "No header of this submission was ever stored: begin with Submit.",
                submission_id=submission_id,
            )
        return stored.progress

    async def _open(self, submission: Submission) -> SubmissionProgress:
        async with self._database.begin() as connection:
            await campaigns.ensure(connection, submission.tenant_id, submission.campaign_id)
            await _refuse_cancelled(connection, submission)
            await submissions.insert(connection, submission)
            stored = await submissions.find(connection, submission.tenant_id, submission.submission_id)
        if stored is None or stored.fingerprint != submission.fingerprint:
            raise errors.already_exists(
                "SUBMISSION_CONFLICT",
                "This submission was begun with another header: send the same one, or use a new submission id.",
                submission_id=submission.submission_id,
            )
        return stored.progress

    async def _store(self, submission: Submission, cutter: Cutter) -> None:
        """Store the next whole batch."""
        await self._refuse_overload()
        async with self._database.begin() as connection:
            progress = await self._store_next(connection, submission, cutter)
        cutter.move_to(progress)
        self._on_stored()

    async def _finish(self, submission: Submission, cutter: Cutter, end: End) -> SubmissionProgress:
        """Store what is left, and that this is all."""
        async with self._database.begin() as connection:
            await _refuse_cancelled(connection, submission)
            before = stored = (await submissions.lock(connection, submission)).progress
            cutter.move_to(stored)
            rest = cutter.peek()
            if rest.phones:
                _refuse_more(stored)
                await submissions.insert_batch(connection, submission, stored.batches, rest)
                stored = stored.after(rest)
            if end.recipients != stored.next_index:
                raise errors.already_exists(
                    "SUBMISSION_CONFLICT",
                    f"The end says {end.recipients} recipients, but {stored.next_index} were streamed: "
                    "go on from next_index, or use a new submission id.",
                    next_index=before.next_index,
                )
            progress = SubmissionProgress(stored.next_index, stored.last_phone, stored.batches, complete=True)
            await submissions.save_progress(connection, submission, progress)
        self._on_stored()
        return progress

    async def _store_next(
        self, connection: AsyncConnection, submission: Submission, cutter: Cutter
    ) -> SubmissionProgress:
        await _refuse_cancelled(connection, submission)
        stored = (await submissions.lock(connection, submission)).progress
        if stored.next_index != cutter.start:
            return stored  # another stream of the same submission was here first
        _refuse_more(stored)
        batch = cutter.peek()
        await submissions.insert_batch(connection, submission, stored.batches, batch)
        progress = stored.after(batch)
        await submissions.save_progress(connection, submission, progress)
        self._backlog += len(batch.phones)
        return progress

    async def _refuse_overload(self) -> None:
        now = self._clock.monotonic()
        if now - self._backlog_read_at >= _BACKLOG_FRESH_SECONDS:
            async with self._database.connect() as connection:
                self._backlog = await submissions.backlog(connection)
            self._backlog_read_at = now
        if self._backlog >= self._backlog_limit:
            raise errors.overloaded(
                "BACKLOG_FULL",
                f"{self._backlog} recipients wait to be sent, the limit is {self._backlog_limit}: come back later.",
                retry_after=_RETRY_AFTER,
            )


async def _refuse_cancelled(connection: AsyncConnection, submission: Submission) -> None:
    flags = await campaigns.lock_shared(connection, submission.tenant_id, submission.campaign_id)
    if flags.cancelled:
        raise errors.wrong_state(
            "CAMPAIGN_CANCELLED",
            "The campaign was cancelled: its recipients are not taken any more.",
            campaign_id=submission.campaign_id,
        )


def _refuse_more(stored: SubmissionProgress) -> None:
    if stored.complete:
        raise errors.already_exists(
            "SUBMISSION_CONFLICT",
            f"This submission is complete with {stored.next_index} recipients: use a new submission id for more.",
            next_index=stored.next_index,
        )
