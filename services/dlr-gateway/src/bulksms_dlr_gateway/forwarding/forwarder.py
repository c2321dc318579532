"""Moves reports out of the spool: fresh ones in one lane, unknown ones in another, neither holding up the other."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import TypeVar

from bulksms_dlr_gateway.domain.disposition import Disposition, PeerReply, disposition_of
from bulksms_dlr_gateway.domain.entries import SpooledEntry
from bulksms_dlr_gateway.domain.reports import microseconds, moment
from bulksms_dlr_gateway.domain.retry_schedule import RetrySchedule
from bulksms_dlr_gateway.forwarding.delivery import Delivery
from bulksms_dlr_gateway.metrics import ForwardingMetrics
from bulksms_dlr_gateway.storage.spool import Spool
from servicekit import logs
from servicekit.clock import Clock
from servicekit.errors import DomainError
from servicekit.waiting import is_set_within

__all__ = ["FreshLane", "WaitingLane"]

T = TypeVar("T")

_log = logs.get_logger("bulksms.dlr_gateway.forwarder")
_FRESH_POLL = timedelta(seconds=1)  # an operator's replay arrives without an event
_WAITING_POLL = timedelta(seconds=0.25)
_PAUSE_AFTER_ERROR = timedelta(seconds=1)
_STOP_GRACE = timedelta(seconds=3)


class FreshLane:
    """Forwards what has just come in, oldest first, several batches at a time; a component."""

    def __init__(
        self,
        spool: Spool,
        campaign: Delivery,
        schedule: RetrySchedule,
        clock: Clock,
        metrics: ForwardingMetrics,
        *,
        batch_size: int,
        in_flight: int,
        linger: timedelta,
    ) -> None:
        self.name = "fresh lane"
        self._spool = spool
        self._campaign = campaign
        self._schedule = schedule
        self._clock = clock
        self._metrics = metrics
        self._batch_size = batch_size
        self._linger = linger.total_seconds()
        self._slots = asyncio.Semaphore(in_flight)
        self._in_hand: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Nothing to prepare; the work is done in `run`."""

    async def run(self) -> None:
        """Forward until stopped; then what is left, for a moment."""
        async with asyncio.TaskGroup() as group:
            reader = group.create_task(self._read(group))
            await self._stopping.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(_STOP_GRACE.total_seconds()):
                    await asyncio.shield(reader)
            # What is cut off here is still in the spool, and forwarded again.
            for task in {reader, *self._in_hand}:
                task.cancel()

    async def stop(self) -> None:
        """Have `run` come to its end."""
        self._stopping.set()
        self._spool.arrived.set()

    async def _read(self, group: asyncio.TaskGroup) -> None:
        cursor = 0
        backlog = True
        while True:
            await self._slots.acquire()
            if not backlog:
                # A full batch costs campaign hardly more than a small one, so let some more come in.
                await asyncio.sleep(self._linger)
            self._spool.arrived.clear()
            batch = await _persistently(partial(self._spool.take_fresh, cursor, self._batch_size))
            backlog = len(batch) == self._batch_size
            if batch:
                cursor = batch[-1].id
                task = group.create_task(self._forward(batch))
                self._in_hand.add(task)
                task.add_done_callback(self._in_hand.discard)
                continue
            self._slots.release()
            if self._stopping.is_set():
                if self._in_hand:
                    await asyncio.wait(self._in_hand)
                return
            await is_set_within(self._spool.arrived, _FRESH_POLL.total_seconds())

    async def _forward(self, batch: Sequence[SpooledEntry]) -> None:
        try:
            replies = await self._campaign.offer([row.entry for row in batch], "fresh")
            now = self._clock.now()
            disposition = disposition_of(batch, replies, self._schedule, microseconds(now))
            await _persistently(lambda: self._spool.apply_to_fresh(disposition))
            _count_quarantined(self._metrics, disposition)
            self._metrics.age.record((now - moment(batch[0].entry.received_at)).total_seconds())
        finally:
            self._slots.release()


class WaitingLane:
    """Offers again what campaign did not know: to campaign, which may know it by now, then to the dispatcher."""

    def __init__(
        self,
        spool: Spool,
        campaign: Delivery,
        dispatcher: Delivery,
        schedule: RetrySchedule,
        clock: Clock,
        metrics: ForwardingMetrics,
        *,
        batch_size: int,
    ) -> None:
        self.name = "waiting lane"
        self._spool = spool
        self._campaign = campaign
        self._dispatcher = dispatcher
        self._schedule = schedule
        self._clock = clock
        self._metrics = metrics
        self._batch_size = batch_size
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Nothing to prepare; the work is done in `run`."""

    async def run(self) -> None:
        """Offer until stopped; what is under way then stays in the spool."""
        async with asyncio.TaskGroup() as group:
            rounds = group.create_task(self._rounds())
            await self._stopping.wait()
            rounds.cancel()

    async def stop(self) -> None:
        """Have `run` come to its end."""
        self._stopping.set()

    async def _rounds(self) -> None:
        while True:
            due, until_next = await _persistently(lambda: self._spool.take_due(self._batch_size))
            if due:
                await self._offer_again(due)
            else:
                await asyncio.sleep(min(until_next or _WAITING_POLL, _WAITING_POLL).total_seconds())

    async def _offer_again(self, due: Sequence[SpooledEntry]) -> None:
        replies = await self._campaign.offer([row.entry for row in due], "waiting")
        now = microseconds(self._clock.now())
        unknown = [
            index
            for index, reply in enumerate(replies)
            if reply is PeerReply.UNKNOWN and self._schedule.asks_dispatcher(due[index].entry, now)
        ]
        if unknown:
            second_replies = await self._ask_dispatcher([due[index] for index in unknown])
            for index, reply in zip(unknown, second_replies, strict=True):
                replies[index] = reply
        disposition = disposition_of(due, replies, self._schedule, microseconds(self._clock.now()))
        await _persistently(lambda: self._spool.apply_to_waiting(disposition))
        _count_quarantined(self._metrics, disposition)

    async def _ask_dispatcher(self, rows: Sequence[SpooledEntry]) -> list[PeerReply]:
        try:
            return await self._dispatcher.offer_once([row.entry for row in rows], "waiting")
        except DomainError as error:
            # Away, it may know them when it is back. Not offering the call, or refusing it, it never will.
            return [PeerReply.UNASKED if error.retryable else PeerReply.UNKNOWN] * len(rows)


async def _persistently(work: Callable[[], Awaitable[T]]) -> T:
    """Do something with the spool, again and again while the disk fails: nothing can go on without it."""
    while True:
        try:
            return await work()
        except sqlite3.Error as error:
            _log.error("the spool cannot be used", error_type=type(error).__qualname__, error=str(error))
            await asyncio.sleep(_PAUSE_AFTER_ERROR.total_seconds())


def _count_quarantined(metrics: ForwardingMetrics, disposition: Disposition) -> None:
    for reason, count in Counter(reason for reason, _ in disposition.quarantined).items():
        metrics.quarantined.add(count, {"reason": reason})
        _log.warning("reports quarantined", reason=reason, reports=count)
