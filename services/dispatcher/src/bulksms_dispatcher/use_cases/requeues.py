"""Requeues: a dead batch goes back into the queue because an operator says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from bulksms_dispatcher.domain.batches import BatchRecord
from bulksms_dispatcher.domain.protocol import BatchState
from bulksms_dispatcher.storage import operator_actions, queue
from bulksms_dispatcher.storage.operator_actions import OperatorAction
from bulksms_dispatcher.use_cases.resolutions import no_batch
from servicekit import errors
from servicekit.database import Database

__all__ = ["Requeue", "Requeues"]

_KIND = "REQUEUE"


@dataclass(frozen=True, slots=True)
class Requeue:
    """Who wants which batch back in the queue, and why."""

    request_id: UUID
    batch_id: UUID
    reason: str
    operator: str

    def as_action(self, tenant_id: str) -> OperatorAction:
        """As it is written down."""
        return OperatorAction(self.request_id, _KIND, self.batch_id, tenant_id, self.reason, self.operator)


class Requeues:
    """DEAD → READY with fresh retries, written down with its author and its reason."""

    def __init__(self, database: Database, notify: Callable[[], None]) -> None:
        self._database = database
        self._notify = notify

    async def requeue(self, wanted: Requeue) -> BatchRecord:
        """Idempotent by request id. Errors: BATCH_NOT_FOUND, BATCH_STATE, REQUEST_ID_REUSED."""
        async with self._database.begin() as connection:
            done = await operator_actions.find(connection, wanted.request_id)
            if done is not None and (done.kind, done.batch_id) != (_KIND, wanted.batch_id):
                raise errors.already_exists(
                    "REQUEST_ID_REUSED",
                    "This request id requeued another batch: use a new one.",
                    differs="batch_id",
                )
            if done is None:
                batch = await queue.find_batch(connection, wanted.batch_id)
                if batch is None:
                    raise no_batch(wanted.batch_id)
                if not await queue.requeue_dead(connection, batch.tenant_id, batch.batch_id):
                    raise _not_dead(batch)
                await operator_actions.save(connection, wanted.as_action(batch.tenant_id))
            record = await queue.find_batch(connection, wanted.batch_id)
        if record is None:
            raise no_batch(wanted.batch_id)
        self._notify()
        return record


def _not_dead(record: BatchRecord) -> errors.DomainError:
    return errors.wrong_state(
        "BATCH_STATE",
        f"Only a DEAD batch can be requeued, this one is {record.state.name}.",
        state=record.state.name,
        allowed=BatchState.DEAD.name,
    )
