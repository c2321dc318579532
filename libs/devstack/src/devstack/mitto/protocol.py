"""The HTTP/1.1 server: keep-alive, chunked bodies and pipelining, and responses that misbehave byte by byte."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
import time
import traceback
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol, cast

import httptools

from devstack.mitto.responses import Response, json_response

MAX_HEAD_BYTES = 64 * 1024
MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_PIPELINED = 16
IDLE_SECONDS = 120.0
FLUSH_SECONDS = 30.0


@dataclass(slots=True)
class Request:
    """A request, or as much of it as there is."""

    connection: int
    arrived_at: float
    method: str = ""
    target: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    keep_alive: bool = True
    rejection: Response | None = None

    @property
    def path(self) -> str:
        """The target without its query."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> str:
        """What follows the question mark."""
        return self.target.partition("?")[2]


class Handler(Protocol):
    """What the server serves."""

    def head_received(self, request: Request) -> int | None:
        """Called before the body is read. A number resets the connection when so many bytes were read."""

    async def handle(self, request: Request, exchange: Connection) -> None:
        """Respond to a complete request through the exchange, one way or another."""


class Connection(asyncio.Protocol):
    """One client's connection, and the ways to respond on it."""

    def __init__(self, handler: Handler, number: int, open_connections: set[Connection]) -> None:
        self.number = number
        self.closed = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self.used_at = time.monotonic()
        self._handler = handler
        self._open = open_connections
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._pending: deque[Request] = deque()
        self._request = Request(number, 0.0)
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._read_bytes = 0
        self._cut_at: int | None = None
        self._in_head = False
        self._deaf = False

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._open.add(self)

    def connection_lost(self, _: Exception | None) -> None:
        self._open.discard(self)
        self._deaf = True
        self.closed.set()
        self._drained.set()

    def pause_writing(self) -> None:
        self._drained.clear()

    def resume_writing(self) -> None:
        self._drained.set()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._read_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._deaf = True
        except httptools.HttpParserError:
            self._reject(400, "this is no HTTP/1.1 request")
        if self._cut_at is not None and self._read_bytes >= self._cut_at:
            self.reset()
        elif self._in_head and self._read_bytes > MAX_HEAD_BYTES:
            self._reject(431, f"the request's head is longer than {MAX_HEAD_BYTES} bytes")

    # What the parser calls.

    def on_message_begin(self) -> None:
        self._request = Request(self.number, time.time())
        self._body, self._body_bytes, self._in_head = [], 0, True

    def on_url(self, url: bytes) -> None:
        self._request.target += url.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._request.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        request = self._request
        self._in_head = False
        request.method = self._parser.get_method().decode("latin-1")
        request.keep_alive = self._parser.should_keep_alive()
        length = request.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > MAX_BODY_BYTES:
            self._reject(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
            return
        self._cut_at = self._handler.head_received(request)
        expects = request.headers.get("expect", "").lower() == "100-continue"
        if expects and self._cut_at is None and self._task is None and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > MAX_BODY_BYTES:
            self._reject(413, f"the body is larger than {MAX_BODY_BYTES} bytes")
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self._deaf:
            return
        if self._cut_at is not None:
            self.reset()
            return
        self._request.body = b"".join(self._body)
        self._body = []
        self._read_bytes = 0
        self._enqueue(self._request)

    # What the handler calls.

    async def send(self, response: Response, request: Request) -> None:
        """Response."""
        data = self._encode(response, request)
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)
            if response.close:
                self._transport.close()

    async def send_part(self, response: Response, request: Request, length: int, *, reset: bool) -> None:
        """Send only the first bytes of a response, then end the connection."""
        transport = self._transport
        if transport is None:
            return
        # Without a buffer, writing is paused until the kernel has all of it.
        transport.set_write_buffer_limits(0)
        transport.write(self._encode(response, request)[:length])
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await self._drained.wait()
        except TimeoutError:
            reset = True
        if reset:
            self.reset()
        else:
            transport.close()

    async def drip(self, response: Response, request: Request, size: int, interval_seconds: float) -> None:
        """Send a response a few bytes at a time."""
        data = self._encode(response, request)
        for start in range(0, len(data), size):
            if self._transport is None or self._transport.is_closing():
                return
            self._transport.write(data[start : start + size])
            await asyncio.sleep(interval_seconds)

    def reset(self) -> None:
        """Break the connection off with a TCP reset."""
        self._deaf = True
        if self._transport is None or self._transport.is_closing():
            return
        connection = self._transport.get_extra_info("socket")
        if connection is not None:
            # Lingering for zero seconds is what makes the kernel send RST instead of FIN.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def close_when_idle(self, before: float) -> None:
        """Close if nothing has happened since a time of the monotonic clock."""
        if self._task is None and self.used_at < before and self._transport is not None:
            self._transport.close()

    async def finish(self, grace_seconds: float) -> None:
        """Close: what is being responded to may end within the grace."""
        self._deaf = True
        if self._task is not None:
            await asyncio.wait([self._task], timeout=grace_seconds)
        if self._task is not None:
            self._task.cancel()
        if self._transport is not None:
            self._transport.close()

    # Inside.

    def _encode(self, response: Response, request: Request) -> bytes:
        data = response.encode(keep_alive=request.keep_alive)
        return data[: len(data) - len(response.body)] if request.method == "HEAD" else data

    def _reject(self, status: int, text: str) -> None:
        self._deaf = True
        self._request.keep_alive = False
        self._request.rejection = json_response({"message": text}, status)
        self._enqueue(self._request)

    def _enqueue(self, request: Request) -> None:
        self._pending.append(request)
        if len(self._pending) >= MAX_PIPELINED and self._transport is not None:
            self._transport.pause_reading()
        if self._task is None:
            self._task = self._loop.create_task(self._work())

    async def _work(self) -> None:
        try:
            while self._pending:
                request = self._pending.popleft()
                if self._transport is not None and len(self._pending) == MAX_PIPELINED // 2:
                    self._transport.resume_reading()
                await self._respond(request)
                if not request.keep_alive:
                    if self._transport is not None:
                        self._transport.close()
                    return
        finally:
            self.used_at = time.monotonic()
            self._task = None

    async def _respond(self, request: Request) -> None:
        try:
            if request.rejection is not None:
                await self.send(request.rejection, request)
            else:
                await self._handler.handle(request, self)
        except Exception:  # noqa: BLE001 - one request must not end the simulator
            traceback.print_exc(file=sys.stderr)
            await self.send(json_response({"message": "the simulator has a bug; its log has the trace"}, 500), request)
