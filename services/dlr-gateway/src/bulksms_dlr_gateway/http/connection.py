"""One client's HTTP/1.1 connection on the hostile side: every size, count and wait has a bound.

Parsing is llhttp's (through httptools), which refuses what request smuggling is made of. A server framework is left
out on purpose: those at hand bound neither the size of a request's head nor the time it may take.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from enum import Enum, auto
from typing import Protocol, cast

import httptools

from bulksms_dlr_gateway.http.messages import Handler, Head, Response, json_response
from servicekit import logs

__all__ = ["Connection", "ConnectionLimits", "Surroundings"]

_log = logs.get_logger("bulksms.dlr_gateway.connection")
_MAX_PIPELINED = 16
_MAX_HEADERS = 100
_LINGER_SECONDS = 2.0
# Chunked bodies in the smallest chunks take six bytes to carry one.
_CHUNKED_OVERHEAD = 8


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bounds of a single connection; times in seconds."""

    max_body_bytes: int = 1024 * 1024
    max_head_bytes: int = 16 * 1024
    head_timeout: float = 10
    body_timeout: float = 20
    idle_timeout: float = 65


class Surroundings(Protocol):
    """What a connection needs of its server."""

    handler: Handler
    limits: ConnectionLimits
    date: bytes

    def join(self, connection: Connection) -> bool:
        """Count it in; False when there are too many."""
        ...

    def leave(self, connection: Connection) -> None:
        """Count it out."""
        ...

    def reserve(self, size: int) -> bool:
        """Room for that much of a body; False when all connections together hold too much."""
        ...

    def release(self, size: int) -> None:
        """Give room back."""
        ...


class _Phase(Enum):
    IDLE = auto()  # between requests
    HEAD = auto()
    BODY = auto()
    REFUSED = auto()  # nothing more is read; the refusal follows the answers to earlier requests
    LINGER = auto()  # half-closed; what still comes is thrown away, so that no reset overtakes the answer


@dataclass(frozen=True, slots=True)
class _Request:
    head: Head
    body: bytes


class Connection(asyncio.Protocol):
    """Reads requests, has them answered in order, and parts with everyone who is too slow or sends too much."""

    def __init__(self, server: Surroundings) -> None:
        self._server = server
        self._limits = server.limits
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._phase = _Phase.IDLE
        self._deadline = self._loop.time() + self._limits.head_timeout
        self._pending: deque[_Request | Response] = deque()
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._begin_request()

    # Called by the event loop.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without being derived from it
        if not self._server.join(self):
            self._refuse_with(json_response(503, {"reason": "TOO_MANY_CONNECTIONS"}, retry_after="1"))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - a reset is as good as a close
        # Requests that were read whole are still answered, to nobody: their reports are as good as any.
        self._phase = _Phase.LINGER
        self._drop_body()
        self._writable.set()
        self._server.leave(self)

    def data_received(self, data: bytes) -> None:
        if self._phase in {_Phase.REFUSED, _Phase.LINGER}:
            return
        self._raw_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            pass  # refused when the head was complete; the parser reads no further
        except httptools.HttpParserError:
            self._refuse(400, "NOT_HTTP")
        else:
            self._check_raw_size()

    def eof_received(self) -> bool:
        self._closing = True
        if self._phase in {_Phase.HEAD, _Phase.BODY}:
            self._drop_body()
            self._phase = _Phase.IDLE
        return self._task is not None  # the way back stays open while answers are due

    def pause_writing(self) -> None:
        # The client does not read its answers: it is given no new ones, and not for long.
        self._writable.clear()
        self._transport.pause_reading()
        self._deadline = self._loop.time() + self._limits.body_timeout

    def resume_writing(self) -> None:
        self._writable.set()

    # Called by the server.

    def close_when_answered(self) -> None:
        """Take no further request; one that has begun is finished."""
        self._closing = True
        if self._phase is _Phase.IDLE and self._task is None:
            self._transport.close()

    def abort(self) -> None:
        """Close now."""
        if self._task is not None:
            self._task.cancel()
        self._transport.abort()

    def enforce_deadline(self, now: float) -> None:
        """Part with a client that is late; called every second."""
        if now < self._deadline:
            return
        if not self._writable.is_set() or self._phase is _Phase.LINGER:
            self.abort()
        elif self._phase in {_Phase.HEAD, _Phase.BODY}:
            self._refuse(408, "TOO_SLOW")
        elif self._phase is _Phase.IDLE and self._task is None:
            self._transport.close()

    # Called by the parser while it is fed.

    def on_message_begin(self) -> None:
        if self._phase is _Phase.IDLE:
            self._phase = _Phase.HEAD
            self._deadline = self._loop.time() + self._limits.head_timeout
            self._begin_request()

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._header_count += 1
        self._head_bytes += len(name) + len(value) + 4
        if self._header_count > _MAX_HEADERS or self._head_bytes > self._limits.max_head_bytes:
            self._refuse(431, "HEAD_TOO_LARGE")
        elif self._phase is _Phase.HEAD:  # not trailers
            self._headers.setdefault(name.lower(), value)

    def on_headers_complete(self) -> None:
        if self._phase is not _Phase.HEAD:
            return
        if len(self._url) + self._head_bytes > self._limits.max_head_bytes:
            self._refuse(431, "HEAD_TOO_LARGE")
            return
        if self._parser.should_upgrade():
            self._refuse(400, "UPGRADE_NOT_SUPPORTED")
            return
        path = self._url.partition(b"?")[0]
        self._head = Head(self._parser.get_method().decode("latin-1"), path, self._headers)
        refusal = self._server.handler.admit(self._head)
        if refusal is not None:
            self._refuse_with(refusal)
        elif _declared_length(self._headers) > self._limits.max_body_bytes:
            self._refuse(413, "BODY_TOO_LARGE")
        else:
            self._phase = _Phase.BODY
            self._deadline = self._loop.time() + self._limits.body_timeout
            if self._headers.get(b"expect", b"").lower() == b"100-continue" and self._task is None:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        if self._phase is not _Phase.BODY:
            return
        if len(self._body) + len(body) > self._limits.max_body_bytes:
            self._refuse(413, "BODY_TOO_LARGE")
        elif not self._server.reserve(len(body)):
            self._refuse_with(json_response(503, {"reason": "TOO_MANY_BODIES"}, retry_after="1"))
        else:
            self._body += body

    def on_message_complete(self) -> None:
        if self._phase is not _Phase.BODY:
            return
        if not self._parser.should_keep_alive():
            self._closing = True
        self._phase = _Phase.IDLE
        self._pending.append(_Request(self._head, bytes(self._body)))
        self._body.clear()  # what was reserved for it now goes with the request
        self._respond_to_pending()

    # Below, in call order.

    def _begin_request(self) -> None:
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._header_count = 0
        self._head_bytes = 0
        self._body = bytearray()
        # Bytes since the read in which the request began; that read itself is bounded by the loop (256 KiB).
        self._raw_bytes = 0

    def _check_raw_size(self) -> None:
        # Inside a header or a chunk extension that never ends the parser calls nothing, but it keeps the bytes.
        if self._phase is _Phase.HEAD and self._raw_bytes > self._limits.max_head_bytes:
            self._refuse(431, "HEAD_TOO_LARGE")
        elif self._phase is _Phase.BODY and self._raw_bytes > _CHUNKED_OVERHEAD * self._limits.max_body_bytes:
            self._refuse(413, "BODY_TOO_LARGE")

    def _refuse(self, status: int, reason: str) -> None:
        self._refuse_with(json_response(status, {"reason": reason}))

    def _refuse_with(self, response: Response) -> None:
        if self._phase in {_Phase.REFUSED, _Phase.LINGER}:
            return
        self._phase = _Phase.REFUSED
        self._closing = True
        self._drop_body()
        self._pending.append(response)
        self._respond_to_pending()

    def _drop_body(self) -> None:
        self._server.release(len(self._body))
        self._body.clear()

    def _respond_to_pending(self) -> None:
        if len(self._pending) >= _MAX_PIPELINED:
            self._transport.pause_reading()
        if self._task is None:
            self._task = self._loop.create_task(self._respond_to_all())

    async def _respond_to_all(self) -> None:
        try:
            while self._pending:
                await self._writable.wait()
                item = self._pending.popleft()
                response = item if isinstance(item, Response) else await self._respond(item)
                self._send(response, last=self._closing and not self._pending)
        finally:
            self._task = None
            while self._pending:  # only after a cancel
                left = self._pending.popleft()
                self._server.release(0 if isinstance(left, Response) else len(left.body))
        self._after_answers()

    async def _respond(self, request: _Request) -> Response:
        try:
            return await self._server.handler.respond(request.head, request.body)
        except Exception as error:  # noqa: BLE001 - the boundary of the connection's loop
            # The client learns nothing of our inside.
            _log.exception("a request failed", error_type=type(error).__qualname__)
            return json_response(500, {"reason": "INTERNAL"})
        finally:
            self._server.release(len(request.body))

    def _send(self, response: Response, *, last: bool) -> None:
        if self._transport.is_closing():
            return
        lines = [response.head, self._server.date]
        if last and self._phase in {_Phase.IDLE, _Phase.REFUSED}:
            lines.append(b"Connection: close\r\n")
        self._transport.write(b"".join([*lines, b"\r\n", response.body]))

    def _after_answers(self) -> None:
        if self._transport.is_closing():
            return
        if self._phase is _Phase.REFUSED:
            self._phase = _Phase.LINGER
            self._deadline = self._loop.time() + _LINGER_SECONDS
            self._transport.write_eof()
            self._transport.resume_reading()
        elif self._phase is _Phase.IDLE and self._closing:
            self._transport.close()
        else:
            if self._phase is _Phase.IDLE:
                self._deadline = self._loop.time() + self._limits.idle_timeout
            self._transport.resume_reading()


def _declared_length(headers: dict[bytes, bytes]) -> int:
    length = headers.get(b"content-length", b"0")
    return int(length[:20]) if length.isdigit() else 0  # llhttp has refused what is no number
