"""Group commit: what is asked of one account at the same time is decided together, under one lock and one commit."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from typing import Final

from opentelemetry import metrics, trace

from bulksms_ledger.domain.operations import Decision, Request
from servicekit import errors, logs
from servicekit.database import as_domain_error

Decide = Callable[[str, Sequence[Request]], Awaitable[list[Decision]]]

_log = logs.get_logger("bulksms.ledger.group_commit")
_RETRY_AFTER: Final = timedelta(milliseconds=500)
_LINKS_MAX: Final = 128  # OpenTelemetry's own limit
# A commit costs 1.5 ms of CPU, half of it PostgreSQL's, however few it is for: a group is worth some waiting, but not
# longer than anybody is likely to come.
_QUIET: Final = timedelta(milliseconds=2)
_GATHERING: Final = timedelta(milliseconds=12)
_SLICE: Final = 100  # callers answered before the event loop, and with it the next transaction, has its turn


@dataclass(slots=True)
class _Waiting:
    """Operations of one caller, and where it waits for their decisions."""

    operations: Sequence[Request]
    decisions: asyncio.Future[list[Decision]]
    span: trace.Span


@dataclass(slots=True)
class _Queue:
    """What waits for one account; served by one task while there is anything."""

    requests: deque[_Waiting] = field(default_factory=deque)
    operations: int = 0
    expected: int = 0  # as many callers as the last group had: most are its own, come again


class GroupCommit:
    """Queues operations by account and decides each account's in groups, in the order they came.

    While one group commits, the next gathers, and goes on gathering for some milliseconds while more keep coming, until
    as many callers wait as the last group had: the busier an account, the larger its groups, so that one hot tenant is
    not bound to one commit per request. Who comes alone is decided at once. Several processes may do so for the same
    account: its row lock orders them.

    A caller that goes away before its group has begun is forgotten; afterwards the group goes on without it, and the
    caller's repeat finds what was decided.
    """

    def __init__(
        self,
        decide: Decide,
        *,
        group_max: int = 1000,
        waiting_max: int = 20_000,
        quiet: timedelta = _QUIET,
        gathering: timedelta = _GATHERING,
    ) -> None:
        self._decide = decide
        self._group_max = group_max
        self._waiting_max = waiting_max
        self._quiet_seconds = quiet.total_seconds()
        self._gathering_seconds = gathering.total_seconds()
        self._queues: dict[str, _Queue] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting = 0
        self._stopping = False
        meter = metrics.get_meter("bulksms.ledger.group_commit")
        self._tracer = trace.get_tracer("bulksms.ledger.group_commit")
        self._group_size = meter.create_histogram(
            "ledger.group.operations", unit="{operation}", description="Operations decided by one commit"
        )
        self._rejected = meter.create_counter(
            "ledger.group.rejected", unit="{operation}", description="Operations turned away by a full queue"
        )

    async def decide(self, tenant_id: str, operations: Sequence[Request]) -> list[Decision]:
        """Decide operations on one account; returns when they are durable. Raises OVERLOADED when the queue is full."""
        self._admit(len(operations))
        request = _Waiting(operations, asyncio.get_running_loop().create_future(), trace.get_current_span())
        queue = self._queues.get(tenant_id)
        if queue is None:
            queue = self._queues[tenant_id] = _Queue()
            # A context of its own: the group outlives its callers, their deadlines and their spans.
            task = asyncio.create_task(
                self._serve(tenant_id, queue), name=f"group commit {tenant_id}", context=Context()
            )
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        queue.requests.append(request)
        queue.operations += len(operations)
        self._waiting += len(operations)
        return await request.decisions

    async def start(self) -> None:
        """Nothing to prepare: a queue is made when there is something to decide."""

    async def stop(self) -> None:
        """Take nothing new and finish what waits."""
        self._stopping = True
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _admit(self, count: int) -> None:
        if self._stopping:
            raise errors.unavailable("SHUTTING_DOWN", "The ledger is stopping: try again.", retry_after=_RETRY_AFTER)
        if self._waiting + count > self._waiting_max:
            self._rejected.add(count)
            raise errors.overloaded(
                "LEDGER_OVERLOADED",
                f"{self._waiting} operations are waiting to be decided, at most {self._waiting_max} may: try later.",
                retry_after=_RETRY_AFTER,
            )

    async def _serve(self, tenant_id: str, queue: _Queue) -> None:
        try:
            while queue.requests:
                await self._gather(queue)
                group = self._take(queue)
                queue.expected = len(group)
                await self._decide_group(tenant_id, group)
        finally:  # also when cancelled by a stop that ran out of time: nobody may wait for ever
            del self._queues[tenant_id]
            for request in queue.requests:
                self._waiting -= len(request.operations)
                request.decisions.cancel()

    async def _gather(self, queue: _Queue) -> None:
        """Where several wait, but fewer than expected, wait for the others: until none has joined for `quiet`."""
        loop = asyncio.get_running_loop()
        latest, seen = loop.time() + self._gathering_seconds, 1
        while seen < len(queue.requests) < queue.expected and queue.operations < self._group_max and not self._stopping:
            seen = len(queue.requests)
            if loop.time() >= latest:
                return
            await asyncio.sleep(self._quiet_seconds)

    def _take(self, queue: _Queue) -> list[_Waiting]:
        """The next group, at most `group_max` operations, or one request that has more by itself."""
        group: list[_Waiting] = []
        size = 0
        while queue.requests and (not group or size + len(queue.requests[0].operations) <= self._group_max):
            request = queue.requests.popleft()
            queue.operations -= len(request.operations)
            self._waiting -= len(request.operations)
            if not request.decisions.done():  # its caller may have gone
                group.append(request)
                size += len(request.operations)
        return group

    async def _decide_group(self, tenant_id: str, group: Sequence[_Waiting]) -> None:
        if not group:  # all its callers have gone
            return
        try:
            await self._answer(group, await self._decide_all(tenant_id, group))
        except Exception as error:  # noqa: BLE001 - the loop's boundary: its callers are told
            await self._fail(tenant_id, group, error)
        except asyncio.CancelledError:
            for request in group:
                request.decisions.cancel()
            raise

    async def _answer(self, group: Sequence[_Waiting], decisions: list[Decision]) -> None:
        position = 0
        for number, request in enumerate(group, 1):
            end = position + len(request.operations)
            if not request.decisions.done():
                request.decisions.set_result(decisions[position:end])
            position = end
            if number % _SLICE == 0:
                await asyncio.sleep(0)

    async def _decide_all(self, tenant_id: str, group: Sequence[_Waiting]) -> list[Decision]:
        operations = [operation for request in group for operation in request.operations]
        self._group_size.record(len(operations))
        # A single caller's group is part of its trace; a shared one is linked from a trace of its own.
        alone = len(group) == 1
        with self._tracer.start_as_current_span(
            "ledger.group_commit",
            context=trace.set_span_in_context(group[0].span) if alone else None,
            links=[] if alone else _links(group),
            attributes={"bulksms.tenant_id": tenant_id, "ledger.operations": len(operations)},
        ):
            return await self._decide(tenant_id, operations)

    async def _fail(self, tenant_id: str, group: Sequence[_Waiting], error: Exception) -> None:
        known = as_domain_error(error)
        if known is None and len(group) > 1:
            # Something in the group is at fault, which is a bug of ours; the others must not pay for it.
            _log.error("group failed, decided one by one", requests=len(group), error_type=type(error).__qualname__)
            for request in group:
                await self._decide_group(tenant_id, [request])
            return
        for request in group:
            if not request.decisions.done():
                request.decisions.set_exception(known or error)


def _links(group: Sequence[_Waiting]) -> list[trace.Link]:
    """Links to the callers that are being recorded; as many as a span keeps."""
    recorded = (request.span for request in group if request.span.is_recording())
    return [trace.Link(span.get_span_context()) for span in islice(recorded, _LINKS_MAX)]
