"""The sweeper: single messages whose caller died between the reservation and the queue, and their credits."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from bulksms_dispatcher.domain.messages import reservation_id_of
from bulksms_dispatcher.peers.ledger import LedgerPeer
from bulksms_dispatcher.storage import messages
from servicekit import logs
from servicekit.database import Database
from servicekit.errors import DomainError
from servicekit.ids import derived_id

__all__ = ["Sweeper"]

# Far longer than a call may take from the reservation to the queue.
AGE = timedelta(minutes=2)
_AT_ONCE = 100
_log = logs.get_logger("bulksms.dispatcher.sweeper")


class Sweeper:
    """They were never sent: they fail, and what was reserved for them is given back. Any number may run at once."""

    def __init__(self, database: Database, ledger: LedgerPeer, *, age: timedelta = AGE) -> None:
        self._database = database
        self._ledger = ledger
        self._age = age

    async def sweep_once(self) -> bool:
        """One round of the worker; True when there may be more."""
        async with self._database.connect() as connection:
            abandoned = await messages.find_abandoned(connection, self._age, _AT_ONCE)
        swept = 0
        for message_id, tenant_id in abandoned:
            swept += await self._sweep(message_id, tenant_id)
        return swept == _AT_ONCE

    async def _sweep(self, message_id: UUID, tenant_id: str) -> bool:
        async with self._database.begin() as connection:
            if not await messages.fail_unqueued(connection, tenant_id, message_id):
                return False
        try:
            await self._ledger.close(
                derived_id(message_id, "sweep"), tenant_id, reservation_id_of(message_id), expected_captured=0
            )
        except DomainError as error:
            if error.retryable or error.category.rpc_code in ("UNIMPLEMENTED", "INTERNAL"):
                _log.warning("credit not given back yet", message_id=str(message_id), reason=error.reason)
                return False
            # Never reserved, or closed before: nothing is reserved.
        async with self._database.begin() as connection:
            await messages.release_credit(connection, tenant_id, message_id)
        _log.warning("message given up: its caller died before it was queued", message_id=str(message_id))
        return True
