"""Deferral: who may have been sent a text is not sent the same one again until that is known."""

from __future__ import annotations

from collections import OrderedDict
from datetime import timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_dispatcher.domain.batches import LeasedBatch
from bulksms_dispatcher.domain.earlier_messages import EarlierMessages
from bulksms_dispatcher.domain.recipients import Recipients
from bulksms_dispatcher.metrics import Metrics
from bulksms_dispatcher.storage import deferrals, evidence, unresolved
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

    Only what evidence could not tell apart waits: the same tenant's same text to the same number. A single message,
    which is a one-time code or an answer somebody waits for, never does.

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
        self._remembered: OrderedDict[UnresolvedBatch, EarlierMessages] = OrderedDict()

    async def find(self, connection: AsyncConnection, batch: LeasedBatch, recipients: Recipients) -> frozenset[int]:
        """Those of the batch's numbers that may have been sent the same text."""
        if batch.is_single_message:
            return frozenset()
        found: frozenset[int] = frozenset()
        for each in await deferrals.find_unresolved(connection, batch):
            found |= (await self._earlier(connection, each)).of_the_same_text(batch, recipients)
        return found

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

    async def _earlier(self, connection: AsyncConnection, found: UnresolvedBatch) -> EarlierMessages:
        known = self._remembered.get(found)
        if known is None:
            named = await evidence.read_ids(connection, found.key)
            known = self._remembered[found] = EarlierMessages.of(await unresolved.read(connection, found.key), named)
            while len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)
        return known


def _divided(recipients: Recipients, deferred: frozenset[int]) -> tuple[Recipients, Recipients]:
    """Without them, and only them."""
    kept = [position for position, phone in enumerate(recipients.phones) if phone not in deferred]
    waiting = [position for position, phone in enumerate(recipients.phones) if phone in deferred]
    return recipients.only(kept), recipients.only(waiting)
