"""Control of sending: an operator stops it for a tenant, a traffic account or everybody, and lets it go on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.stops import Stop, StopKey
from bulksms_dispatcher.storage import operator_actions, stops
from bulksms_dispatcher.storage.operator_actions import OperatorAction
from servicekit import errors, logs
from servicekit.database import Database

__all__ = ["SendingControl", "StopOrder"]

_STOP, _RESUME = "STOP", "RESUME"
_log = logs.get_logger("bulksms.dispatcher.sending_control")


@dataclass(frozen=True, slots=True)
class StopOrder:
    """Who wants what stopped, or a stop of what ended, and why."""

    request_id: UUID
    key: StopKey
    reason: str
    operator: str

    def as_action(self, kind: str) -> OperatorAction:
        """As it is written down."""
        return OperatorAction(self.request_id, kind, self.reason, self.operator, subject=self.key.subject)


class SendingControl:
    """Every call may be repeated, and is written down once."""

    def __init__(self, database: Database, notify: Callable[[], None]) -> None:
        self._database = database
        self._notify = notify

    async def stop(self, order: StopOrder) -> tuple[Stop, int]:
        """The stop in force, and how many batches on the wire it came too late for.

        Nothing is armed any more once this returns: whoever was arming has committed before, and is counted.
        """
        async with self._database.begin() as connection:
            if not await self._is_repeated(connection, order, _STOP):
                await stops.lock(connection)
                if await stops.insert(connection, order.key, reason=order.reason, operator=order.operator):
                    _log.warning("sending stopped by an operator", subject=order.key.subject)
                await operator_actions.save(connection, order.as_action(_STOP))
            in_force = [stop for stop in await stops.read_all(connection) if stop.key == order.key]
            in_flight = await stops.count_armed(connection, order.key)
        if not in_force:
            raise errors.not_found(
                "STOP_NOT_FOUND", "This request id stopped what has been resumed since: use a new one to stop it again."
            )
        return in_force[0], in_flight

    async def resume(self, order: StopOrder) -> Sequence[Stop]:
        """The stops that are still in force. Errors: STOP_NOT_FOUND, REQUEST_ID_REUSED."""
        async with self._database.begin() as connection:
            if not await self._is_repeated(connection, order, _RESUME):
                if not await stops.remove(connection, order.key):
                    raise errors.not_found(
                        "STOP_NOT_FOUND", "Nothing of this is stopped: GetQueueStats shows the stops in force."
                    )
                await operator_actions.save(connection, order.as_action(_RESUME))
                _log.warning("sending goes on: resumed by an operator", subject=order.key.subject)
            left = await stops.read_all(connection)
        self._notify()
        return left

    @staticmethod
    async def _is_repeated(connection: AsyncConnection, order: StopOrder, kind: str) -> bool:
        done = await operator_actions.find(connection, order.request_id)
        if done is not None and (done.kind, done.subject) != (kind, order.key.subject):
            raise errors.already_exists(
                "REQUEST_ID_REUSED",
                "This request id was used for another action: use a new one.",
                differs="scope, key or message_class",
            )
        return done is not None
