"""Resolutions: what an operator confirms of an ambiguous batch, written down with its author and its reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from bulksms_dispatcher.domain.batches import BatchRecord
from bulksms_dispatcher.domain.protocol import BatchState
from bulksms_dispatcher.domain.resolution_plans import Resolution
from bulksms_dispatcher.domain.unresolved import Unresolved
from bulksms_dispatcher.storage import evidence, operator_actions, outcomes, queue, unresolved
from bulksms_dispatcher.storage.operator_actions import OperatorAction
from servicekit import errors, logs
from servicekit.database import Database

__all__ = ["OperatorResolution", "Resolutions", "no_batch"]

_log = logs.get_logger("bulksms.dispatcher.resolutions")


@dataclass(frozen=True, slots=True)
class OperatorResolution:
    """Who confirms what of which batch, and where it is known from."""

    request_id: UUID
    batch_id: UUID
    resolution: Resolution
    known_from: str
    operator: str

    def as_action(self, tenant_id: str) -> OperatorAction:
        """As it is written down."""
        return OperatorAction(
            self.request_id, self.resolution.value, self.known_from, self.operator, self.batch_id, tenant_id
        )


class Resolutions:
    """ACCEPTED captures the credits of all that evidence has not named; NOT_SENT fails all, unless evidence differs."""

    def __init__(self, database: Database, traffic_account_id: str, on_change: Callable[[], None]) -> None:
        self._database = database
        self._account = traffic_account_id
        self._on_change = on_change

    async def resolve(self, wanted: OperatorResolution) -> BatchRecord:
        """Idempotent by request id. Errors: BATCH_NOT_FOUND, BATCH_STATE, REQUEST_ID_REUSED."""
        async with self._database.begin() as connection:
            batch = await unresolved.lock(connection, wanted.batch_id)
            if batch is None:
                raise no_batch(wanted.batch_id)
            done = await operator_actions.find(connection, wanted.request_id)
            if done is not None and (done.kind, done.batch_id) != (wanted.resolution.value, wanted.batch_id):
                raise errors.already_exists(
                    "REQUEST_ID_REUSED",
                    "This request id was used for another action: use a new one.",
                    differs="batch_id or resolution",
                )
            if done is None:
                _refuse(batch, wanted.resolution)
                ids = await evidence.read_ids(connection, batch.key)
                is_accepted = wanted.resolution is Resolution.ACCEPTED
                outcome = batch.accepted_by_operator(ids) if is_accepted else batch.not_sent_by_operator()
                await outcomes.record(connection, batch.key, (BatchState.AMBIGUOUS,), outcome)
                await operator_actions.save(connection, wanted.as_action(batch.tenant_id))
            record = await queue.find_batch(connection, wanted.batch_id, self._account)
        assert record is not None  # noqa: S101 - it was locked
        if done is None:
            _log.warning(
                "batch resolved by an operator", batch_id=str(wanted.batch_id), resolution=wanted.resolution.name
            )
        self._on_change()
        return record


def no_batch(batch_id: UUID) -> errors.DomainError:
    """BATCH_NOT_FOUND."""
    return errors.not_found(
        "BATCH_NOT_FOUND", "There is no such batch: take its id from ListBatches.", batch_id=batch_id
    )


def _refuse(batch: Unresolved, resolution: Resolution) -> None:
    if batch.state is not BatchState.AMBIGUOUS:
        raise errors.wrong_state(
            "BATCH_STATE",
            f"Only an AMBIGUOUS batch can be resolved, this one is {batch.state.name}.",
            state=batch.state.name,
            allowed=BatchState.AMBIGUOUS.name,
        )
    if resolution is Resolution.NOT_SENT and batch.evidenced:
        raise errors.wrong_state(
            "BATCH_STATE",
            f"Evidence shows that {batch.evidenced} of its messages were sent: it can only be resolved as ACCEPTED.",
            state=batch.state.name,
            allowed="RESOLUTION_ACCEPTED",
        )
