"""The senders of this process: claim, send, again, until told to stop."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta

from bulksms_dispatcher.domain.rate_limits import LimitScope
from bulksms_dispatcher.pacing.gate import PacingGate
from bulksms_dispatcher.pacing.limiter import PacingUnavailable
from bulksms_dispatcher.pacing.permits import Throttled
from bulksms_dispatcher.workers.lanes import Lanes
from bulksms_dispatcher.workers.sender import Sender
from servicekit import logs
from servicekit.backoff import Backoff
from servicekit.waiting import is_set_within

__all__ = ["SenderPool"]

URGENT = 3
_BACKOFF = Backoff(timedelta(seconds=0.2), longest=timedelta(seconds=10))
_log = logs.get_logger("bulksms.dispatcher.pool")


class SenderPool:
    """A component: `concurrency` senders, and one more that takes urgent batches only.

    `stop` ends claims at once and lets sends that are under way finish; who stops the component bounds how long.
    """

    name = "sender pool"

    def __init__(self, lanes: Lanes, sender: Sender, gate: PacingGate, concurrency: int) -> None:
        self._lanes = lanes
        self._sender = sender
        self._gate = gate
        self._concurrency = concurrency
        self._stopping = asyncio.Event()

    async def start(self) -> None:
        """Nothing to prepare."""

    async def run(self) -> None:
        """Send until stopped."""
        async with asyncio.TaskGroup() as group:
            for number in range(self._concurrency):
                group.create_task(self._work(at_least=0), name=f"sender-{number}")
            group.create_task(self._work(at_least=URGENT), name="sender-urgent")

    async def stop(self) -> None:
        """Claim nothing more."""
        self._stopping.set()
        self._lanes.notify()

    async def _work(self, at_least: int) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                await self._step(at_least)
                failures = 0
            except PacingUnavailable:
                self._gate.close()
            except Exception:  # noqa: BLE001 - the loop's boundary
                failures += 1
                pause = _BACKOFF.after(failures).total_seconds()
                _log.exception("sender failed and goes on", failures_in_a_row=failures, pause_seconds=pause)
                await is_set_within(self._stopping, pause)

    async def _step(self, at_least: int) -> None:
        if not self._gate.is_open:
            await is_set_within(self._stopping, self._gate.poll_seconds / 4)
            return
        started_ns = time.time_ns()
        batch = await self._lanes.claim(at_least=at_least)
        if batch is None:
            if not self._stopping.is_set():
                await self._lanes.wait()
            return
        try:
            throttled = await self._sender.send(batch, started_ns)
        finally:
            self._lanes.finished(batch)
        if throttled is not None:
            self._note(batch.tenant_id, throttled)

    def _note(self, tenant_id: str, throttled: Throttled) -> None:
        if throttled.scope is LimitScope.TENANT:
            self._lanes.block_tenant(tenant_id, throttled.wait)
        else:
            self._lanes.block_all(throttled.wait)
