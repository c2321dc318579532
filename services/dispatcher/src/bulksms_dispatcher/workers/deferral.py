"""Deferral: who has a message whose outcome is unresolved is not written to again until that is known."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.batches import LeasedBatch
from bulksms_dispatcher.domain.recipients import Recipients, unpack, unpack_positions
from bulksms_dispatcher.metrics import Metrics
from bulksms_dispatcher.storage import deferrals
from bulksms_dispatcher.storage.deferrals import EARLIER_MESSAGE_UNRESOLVED, UnresolvedBatch
from bulksms_dispatcher.workers.recorder import Recorder
from servicekit import logs
from servicekit.database import Database

__all__ = ["Deferral"]

# Of some 5,000 numbers each; what is not remembered is read again.
_REMEMBERED = 64
_log = logs.get_logger("bulksms.dispatcher.deferral")


class Deferral:
    """Finds numbers with an unresolved message and defers them, until that is resolved or given up as UNRESOLVED.

    Costs a sending worker one look into an index that is empty as long as no batch is ambiguous.
    """

    def __init__(
        self, database: Database, recorder: Recorder, metrics: Metrics, *, worker: str, delay: timedelta
    ) -> None:
        self._database = database
        self._recorder = recorder
        self._metrics = metrics
        self._worker = worker
        self._delay = delay
        self._numbers: OrderedDict[UnresolvedBatch, frozenset[int]] = OrderedDict()

    async def find(self, connection: AsyncConnection, batch: LeasedBatch, phones: Sequence[int]) -> frozenset[int]:
        """Those of the batch's numbers with an unresolved message."""
        unresolved = await deferrals.find_unresolved(connection, batch)
        if not unresolved:
            return frozenset()
        wanted = frozenset(phones)
        found: set[int] = set()
        for each in unresolved:
            found |= wanted & await self._numbers_of(connection, each)
        return frozenset(found)

    async def defer(self, batch: LeasedBatch, recipients: Recipients, deferred: frozenset[int]) -> None:
        """Defer these numbers of a leased batch and hand it back; the others, if any, are claimed again at once."""
        kept, waiting = _divided(recipients, deferred)
        if not kept.phones:
            await self._recorder.hand_back(batch, delay=self._delay, reason=EARLIER_MESSAGE_UNRESOLVED)
            return
        async with self._database.begin() as connection:
            split = await deferrals.split_off(connection, batch, self._worker, kept, waiting, self._delay)
        if split:
            self._metrics.deferred.add(len(deferred))
            _log.warning(
                "recipients deferred: an earlier message is unresolved",
                batch_id=str(batch.batch_id),
                recipients=len(deferred),
            )
        await self._recorder.hand_back(batch)

    async def _numbers_of(self, connection: AsyncConnection, unresolved: UnresolvedBatch) -> frozenset[int]:
        known = self._numbers.get(unresolved)
        if known is None:
            stored = await deferrals.read_numbers(connection, unresolved)
            out = {
                *stored.resolved,
                *(unpack_positions(stored.opted_out_positions) if stored.opted_out_positions else ()),
            }
            phones = unpack(stored.packed).phones
            known = frozenset(phone for position, phone in enumerate(phones) if position not in out)
            self._numbers[unresolved] = known
            while len(self._numbers) > _REMEMBERED:
                self._numbers.popitem(last=False)
        return known


def _divided(recipients: Recipients, deferred: frozenset[int]) -> tuple[Recipients, Recipients]:
    """Without them, and only them."""
    kept = [position for position, phone in enumerate(recipients.phones) if phone not in deferred]
    waiting = [position for position, phone in enumerate(recipients.phones) if phone in deferred]
    return recipients.only(kept), recipients.only(waiting)
