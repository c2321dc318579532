"""Delivery reports: which are owed, when they are due, and what became of them."""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from devstack.mitto.pace import Pace
from devstack.mitto.records import AcceptedRequest, AcceptedRequests
from devstack.mitto.report_posts import ReportSettings, ReportWriter
from devstack.mitto.report_results import ReportResults
from devstack.mitto.webhook import Post, Webhook, WebhookAddress

SLICE = 500
"""Messages whose reports are made at a time; what is owed beyond is a few bytes per slice."""

MAX_DELAYED = 200_000
"""Reports delayed one by one (delayed, repeated, retried); beyond, they go at once."""


@dataclass(slots=True)
class _Slice:
    """Messages of one request that reach their statuses together, `step` being the next one.

    The next status is due only when every post about the present one has ended: `Sent` comes before `Delivered`
    unless a switch says otherwise.
    """

    request: AcceptedRequest
    indexes: range
    step: int = 0
    last_step: int = 0
    outstanding: int = 0


@dataclass(slots=True)
class _Debtor:
    """An accepted request that still owes reports."""

    request: AcceptedRequest
    open_slices: int
    at_once: bool
    done: Callable[[], None] | None


@dataclass(order=True, slots=True)
class _Due:
    at: float
    order: int
    what: _Slice | Post = field(compare=False)


class Reports:
    """Everything owed to the webhook."""

    def __init__(self, url: str, headers: dict[str, str], requests: AcceptedRequests, seed: int) -> None:
        self._default_url = url
        self._default_headers = headers
        self._requests = requests
        self._seed = seed
        self._heap: list[_Due] = []
        self._ready: deque[Post] = deque()
        self._delayed = 0
        self._order = 0
        self._debtors: dict[int, _Debtor] = {}
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._post_ended = asyncio.Event()
        self._pace = Pace(0, 0.0)
        self._webhook: Webhook | None = None
        self._former_webhooks: list[Webhook] = []
        self.paused = False
        self.results = ReportResults()
        self.configure(ReportSettings())

    @property
    def pending_requests(self) -> int:
        """Accepted requests that still owe a report."""
        return len(self._debtors)

    @property
    def connections(self) -> int:
        """Open connections to the webhook."""
        return 0 if self._webhook is None else len(self._webhook.connections)

    @property
    def idle(self) -> bool:
        """Whether nothing is owed and nothing is under way."""
        webhooks = (*self._former_webhooks, *([self._webhook] if self._webhook else []))
        return not (self._heap or self._ready or self._debtors or any(webhook.busy for webhook in webhooks))

    def configure(self, settings: ReportSettings) -> None:
        """Change how reports are sent from now on; an empty URL ends them. Raises ValueError for what is no URL."""
        url = self._default_url if settings.url is None else settings.url
        headers = self._default_headers if settings.headers is None else settings.headers
        webhook: Webhook | None = None
        if url:
            address = WebhookAddress.parse(url)
            self._writer = ReportWriter(settings, address, headers, self._seed, self.results.counts)
            webhook = Webhook(
                address,
                self._next,
                connections=settings.connections,
                pipeline=settings.pipeline,
                timeout_seconds=settings.timeout_seconds,
            )
        self.settings = settings
        self._pace = Pace(settings.per_second, self._loop.time())
        self._former_webhooks = [former for former in self._former_webhooks if former.busy]
        if self._webhook is not None:
            self._webhook.retire()
            self._former_webhooks.append(self._webhook)
        self._webhook = webhook
        if webhook is None:
            self.drop()
        self._kick()

    def owe(self, request: AcceptedRequest, done: Callable[[], None] | None = None) -> None:
        """Schedule the reports of a request. With `done` they go at once, and it is called when all have ended."""
        if self._webhook is None or not request.count:
            if done is not None:
                done()
            return
        request.pending_reports = True
        starts = range(0, request.count, SLICE)
        self._debtors[request.record.header.request] = _Debtor(request, len(starts), done is not None, done)
        for start in starts:
            self._schedule(_Slice(request, range(start, min(start + SLICE, request.count))))
        self._kick()

    def pause(self) -> None:
        """Send nothing until `resume`."""
        self.paused = True

    def resume(self) -> None:
        """Go on."""
        self.paused = False
        self._kick()

    async def flush(self, timeout_seconds: float) -> bool:
        """Make everything due now, and wait until nothing is owed; False if that took too long. Ends a pause."""
        for debtor in self._debtors.values():
            debtor.at_once = debtor.request.hurried = True
        for due in self._heap:
            due.at = 0.0
        heapq.heapify(self._heap)
        self.resume()
        return await self.wait_idle(timeout_seconds)

    async def wait_idle(self, timeout_seconds: float) -> bool:
        """Wait until nothing is owed; False if that took too long."""
        try:
            async with asyncio.timeout(timeout_seconds):
                while not self.idle:
                    self._post_ended.clear()
                    await self._post_ended.wait()
        except TimeoutError:
            return False
        return True

    def drop(self) -> None:
        """Forget what is owed; what is under way goes on."""
        for debtor in self._debtors.values():
            debtor.request.pending_reports = False
            if debtor.done is not None:
                debtor.done()
        self._debtors.clear()
        self._heap.clear()
        self._ready.clear()
        self._delayed = 0
        self._post_ended.set()

    async def close(self) -> None:
        """Break off."""
        self.paused = True
        if self._timer is not None:
            self._timer.cancel()
        for webhook in (*self._former_webhooks, *([self._webhook] if self._webhook else [])):
            await webhook.close()

    def _schedule(self, part: _Slice) -> None:
        request = part.request
        at = request.delivery.due(request.accepted_at, part.step, part.indexes.start / request.count)
        self._push(0.0 if self._debtors[request.record.header.request].at_once else at, part)

    def _push(self, at: float, what: _Slice | Post) -> None:
        self._order += 1
        heapq.heappush(self._heap, _Due(at, self._order, what))

    def _kick(self) -> None:
        if self._webhook is not None and not self.paused:
            self._webhook.kick()

    def _kick_at(self, at: float) -> None:
        """Come back at a time of the wall clock."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(max(at - time.time(), 0.001), self._kick)

    def _next(self) -> Post | None:
        """The next post that is due now, for the webhook to send."""
        if self.paused:
            return None
        wait = self._pace.wait_seconds(self._loop.time())
        if wait:
            self._kick_at(time.time() + wait)
            return None
        while not self._ready:
            if not self._heap:
                return None
            now = time.time()
            if self._heap[0].at > now:
                self._kick_at(self._heap[0].at)
                return None
            what = heapq.heappop(self._heap).what
            if isinstance(what, Post):
                self._delayed -= 1
                self._ready.append(what)
            else:
                self._expand(what, now)
        self._pace.take()
        return self._ready.popleft()

    def _expand(self, part: _Slice, now: float) -> None:
        content = self._requests.content(part.request)
        posts, last_step = self._writer.posts(
            part.request, content, part.indexes, part.step, now, partial(self._on_post_end, part)
        )
        part.last_step = max(part.last_step, last_step)
        part.outstanding = 1
        for wait, post in posts:
            if wait and self._delayed < MAX_DELAYED:
                post.on_end = partial(self._on_post_end, None)
                self._delay(now + wait, post)
            else:
                part.outstanding += 1
                self._ready.append(post)
        self._end_one(part)

    def _delay(self, at: float, post: Post) -> None:
        self._delayed += 1
        self._push(at, post)

    def _on_post_end(self, part: _Slice | None, post: Post) -> None:
        again = post.attempts <= self.settings.retry_attempts and self._delayed < MAX_DELAYED
        if self.results.record(post, again=again):
            # The retry is rightly addressed, and nothing waits for it.
            post.head, post.on_end = self._writer.head, partial(self._on_post_end, None)
            self._delay(time.time() + self.settings.retry_seconds, post)
        if part is not None:
            self._end_one(part)
        self._post_ended.set()
        if post.status is None:
            # A connection is gone, or something is held back: neither asks for the next post by itself.
            self._loop.call_soon(self._kick)

    def _end_one(self, part: _Slice) -> None:
        part.outstanding -= 1
        if part.outstanding:
            return
        number = part.request.record.header.request
        debtor = self._debtors.get(number)
        if debtor is None:  # Dropped meanwhile.
            return
        if part.step < part.last_step:
            part.step += 1
            self._schedule(part)
            self._loop.call_soon(self._kick)
            return
        debtor.open_slices -= 1
        if not debtor.open_slices:
            del self._debtors[number]
            part.request.pending_reports = False
            self._post_ended.set()
            if debtor.done is not None:
                debtor.done()
