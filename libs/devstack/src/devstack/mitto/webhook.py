"""The connections that carry delivery reports: HTTP/1.1, kept alive, few, and fast."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

import httptools

MAX_IDLE_SECONDS = 2.0
"""A connection that rested longer is not used again: common servers close theirs after five."""

CONNECT_SECONDS = 5.0


@dataclass(slots=True)
class Post:
    """One POST to the webhook, and what becomes of it."""

    body: bytes
    head: bytes
    message_ids: tuple[str, ...]
    statuses: tuple[str, ...]
    on_end: Callable[[Post], None]
    status: int | None = None
    failure: str | None = None
    attempts: int = 0
    sent_at: float = field(default=0.0)

    @property
    def acknowledged(self) -> bool:
        """Whether the webhook took it."""
        return self.status is not None and 200 <= self.status < 300

    def fail(self, failure: str) -> None:
        """End it without a response."""
        self.failure = failure
        self.on_end(self)


@dataclass(frozen=True, slots=True)
class WebhookAddress:
    """Where reports go, and with which head."""

    host: str
    port: int
    path: str
    secure: bool

    @classmethod
    def parse(cls, url: str) -> WebhookAddress:
        """From an http or https URL. Raises ValueError, naming what is wrong."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"report URL {url!r}: expected http(s)://host[:port]/path")
        secure = parts.scheme == "https"
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.hostname, parts.port or (443 if secure else 80), path, secure)

    def head(self, headers: dict[str, str]) -> bytes:
        """The head of a POST up to its Content-Length."""
        lines = [f"POST {self.path} HTTP/1.1", f"Host: {self.host}:{self.port}", "Content-Type: application/json"]
        for name, value in headers.items():
            if any(character in name + value for character in "\r\n"):
                raise ValueError(f"report header {name!r} has a line break")
            lines.append(f"{name}: {value}")
        return ("\r\n".join(lines) + "\r\nContent-Length: ").encode("latin-1")


class Webhook:
    """Takes posts from a source and sends them over at most `connections` connections."""

    def __init__(
        self,
        address: WebhookAddress,
        source: Callable[[], Post | None],
        *,
        connections: int,
        pipeline: int,
        timeout_seconds: float,
    ) -> None:
        """`source` returns the next post that is due, or None; `kick` has to be called when there is one again."""
        self.address = address
        self.source = source
        self.pipeline = pipeline
        self.connections: set[_Connection] = set()
        self.retired = False
        self._limit = connections
        self._timeout = timeout_seconds
        self._connecting: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._watch = self._loop.call_later(0.25, self._check_deadlines)

    @property
    def busy(self) -> bool:
        """Whether a post is under way."""
        return bool(self._connecting or any(connection.in_flight for connection in self.connections))

    def kick(self) -> None:
        """Put posts on idle connections, then on new ones, as long as the source has any."""
        if self.retired:
            return
        now = self._loop.time()
        for connection in tuple(self.connections):
            if not connection.in_flight:
                if now - connection.used_at > MAX_IDLE_SECONDS:
                    connection.retire()
                elif not connection.feed():
                    return
        while len(self.connections) + len(self._connecting) < self._limit:
            post = self.source()
            if post is None:
                return
            task = self._loop.create_task(self._connect(post))
            self._connecting.add(task)
            task.add_done_callback(self._connecting.discard)

    def retire(self) -> None:
        """Take nothing new, and close when what is under way has ended."""
        self.retired = True
        for connection in tuple(self.connections):
            if not connection.in_flight:
                connection.retire()

    async def close(self) -> None:
        """Close all connections; what was under way has failed."""
        self.retired = True
        self._watch.cancel()
        for task in tuple(self._connecting):
            task.cancel()
        await asyncio.gather(*self._connecting, return_exceptions=True)
        for connection in tuple(self.connections):
            connection.abandon("simulator stopped")

    async def _connect(self, post: Post) -> None:
        address = self.address
        context = ssl.create_default_context() if address.secure else None
        connection = _Connection(self, post)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._loop.create_connection(lambda: connection, address.host, address.port, ssl=context)
        except (OSError, TimeoutError) as error:
            # No longer under way when `on_end` is called, or whoever waits for the end would miss it.
            self._connecting.discard(cast(asyncio.Task[None], asyncio.current_task()))
            # One post pays for each failed attempt, as it would with a client that connects per report.
            if connection.first is post:
                post.attempts += 1
                post.fail(f"connect: {type(error).__name__}")

    def _check_deadlines(self) -> None:
        now = self._loop.time()
        for connection in tuple(self.connections):
            if connection.in_flight and now - connection.in_flight[0].sent_at > self._timeout:
                connection.abandon("no response in time")
        if not self.retired or self.busy:
            self._watch = self._loop.call_later(0.25, self._check_deadlines)


class _Connection(asyncio.Protocol):
    """One keep-alive connection to the webhook."""

    def __init__(self, webhook: Webhook, first: Post) -> None:
        self.first: Post | None = first
        """What the connection was made for; None once it is on the wire."""
        self._webhook = webhook
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._last = False
        self.in_flight: deque[Post] = deque()
        self.used_at = self._loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._webhook.connections.add(self)
        self.feed()

    def connection_lost(self, _: Exception | None) -> None:
        self._webhook.connections.discard(self)
        self._fail_in_flight("connection lost")
        # What waits for a connection gets another one.
        self._loop.call_soon(self._webhook.kick)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.abandon("unreadable response")

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200 or not self.in_flight:
            return
        self.used_at = self._loop.time()
        post = self.in_flight.popleft()
        post.status = status
        self._last = self._last or not self._parser.should_keep_alive()
        post.on_end(post)
        if self._last or (self._webhook.retired and not self.in_flight):
            self.retire()
        else:
            self.feed()

    def feed(self) -> bool:
        """Put as many posts on the wire as may be under way at a time; whether there was any."""
        webhook, transport = self._webhook, self._transport
        if transport is None or transport.is_closing() or self._last:
            return False
        pieces: list[bytes] = []
        if self.first is not None:
            pieces.append(self._start(self.first))
            self.first = None
        while len(self.in_flight) < webhook.pipeline and not webhook.retired and (post := webhook.source()) is not None:
            pieces.append(self._start(post))
        if pieces:
            transport.write(b"".join(pieces))
        return bool(pieces)

    def retire(self) -> None:
        """Close; nothing new is taken, and what was pipelined behind the last response has failed."""
        self._last = True
        self._webhook.connections.discard(self)
        if self._transport is not None:
            self._transport.close()

    def abandon(self, failure: str) -> None:
        """Break the connection off; what was under way has failed."""
        self._last = True
        self._webhook.connections.discard(self)
        if self._transport is not None:
            self._transport.abort()
        self._fail_in_flight(failure)

    def _start(self, post: Post) -> bytes:
        post.sent_at = self._loop.time()
        post.attempts += 1
        self.in_flight.append(post)
        return b"%b%d\r\n\r\n%b" % (post.head, len(post.body), post.body)

    def _fail_in_flight(self, failure: str) -> None:
        while self.in_flight:
            self.in_flight.popleft().fail(failure)
