"""Mitto's Messaging API: one POST per batch, over a connection whose every step is watched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpcore
from pydantic import SecretStr

from bulksms_dispatcher.domain.provider_outcomes import Exchange, Fault, Phase
from bulksms_dispatcher.providers.connections import Connections, ConnectTimeouts, NotConnected
from bulksms_dispatcher.providers.retry_after import parse_retry_after

__all__ = ["BULK_PATH", "SEND_PATH", "MittoClient", "MittoConnection", "NotConnected", "Timeouts"]

BULK_PATH = "/api/v1.1/Messages/sendmessagesbulk"
SEND_PATH = "/api/v1.1/Messages/send"

# A polite response has about 110 bytes a message; ten times that is no response any more.
_RESPONSE_BYTES = 64 * 1024
_RESPONSE_BYTES_PER_MESSAGE = 1024
# Not awaited for longer: an exchange that does not end is not worth a worker.
_END_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Timeouts:
    """`soft` and `hard` count from the first byte: past `soft` the response is late, past `hard` it is given up."""

    connect: timedelta = timedelta(seconds=5)
    pool: timedelta = timedelta(seconds=5)
    soft: timedelta = timedelta(seconds=30)
    hard: timedelta = timedelta(seconds=120)


class MittoClient:
    """Follows no redirect, retries nothing, reads nothing from the environment."""

    def __init__(
        self,
        base_url: str,
        api_key: SecretStr,
        timeouts: Timeouts,
        *,
        connections: int,
        keepalive: timedelta,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._base = httpcore.URL(base_url.rstrip("/"))
        self._headers = [
            (b"Host", _host_header(self._base)),
            (b"X-Mitto-API-Key", api_key.get_secret_value().encode()),
            (b"Content-Type", b"application/json"),
            (b"Accept", b"application/json"),
            # What arrives is what was sent: no decompression that could run away.
            (b"Accept-Encoding", b"identity"),
            (b"User-Agent", b"bulksms-dispatcher"),
        ]
        self._timeouts = timeouts
        self._now = now
        self._connections = Connections(
            self._base, ConnectTimeouts(timeouts.pool, timeouts.connect), limit=connections, keepalive=keepalive
        )

    @property
    def server_address(self) -> str:
        """Host name, for spans."""
        return self._base.host.decode()

    @property
    def server_port(self) -> int:
        """Port, for spans."""
        return self._base.port or (443 if self._base.scheme == b"https" else 80)

    async def close(self) -> None:
        """Close every connection."""
        await self._connections.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[MittoConnection]:
        """An open connection for one request; raises NotConnected. Leaving the block ends whatever is under way."""
        async with self._connections.open() as http:
            connection = MittoConnection(http, self._base, self._headers, self._timeouts, self._now)
            try:
                yield connection
            finally:
                await connection.end()


class MittoConnection:
    """One request and its response."""

    def __init__(
        self,
        http: httpcore.AsyncHTTP11Connection,
        base: httpcore.URL,
        headers: list[tuple[bytes, bytes]],
        timeouts: Timeouts,
        now: Callable[[], datetime],
    ) -> None:
        self._http = http
        self._base = base
        self._headers = headers
        self._timeouts = timeouts
        self._now = now
        self._watch: Callable[[Phase], None] = lambda _phase: None
        self._phase = Phase.CONNECTED
        self._status = 0
        self._exchange: asyncio.Task[Exchange] | None = None

    async def send(self, path: str, body: bytes, messages: int, *, watch: Callable[[Phase], None]) -> Exchange | None:
        """Send the request and say what was seen of it; None when the response is late, and is read on.

        Raises nothing but cancellation. `watch` hears of each phase when it is reached: SENDING right before the first
        byte, AWAITING after the last one.
        """
        self._watch = watch
        self._exchange = asyncio.create_task(self._converse(path, body, messages), name="mitto.exchange")
        await asyncio.wait({self._exchange}, timeout=self._timeouts.soft.total_seconds())
        return self._exchange.result() if self._exchange.done() else None

    async def late_response(self) -> Exchange:
        """What came of it by the hard timeout."""
        assert self._exchange is not None  # noqa: S101 - sent
        late = self._timeouts.hard - self._timeouts.soft
        await asyncio.wait({self._exchange}, timeout=late.total_seconds())
        return self._exchange.result() if self._exchange.done() else Exchange(self._phase, Fault.READ_TIMEOUT)

    async def end(self) -> None:
        """Stop reading."""
        if self._exchange is not None and not self._exchange.done():
            self._exchange.cancel()
            await asyncio.wait({self._exchange}, timeout=_END_SECONDS)

    async def _converse(self, path: str, body: bytes, messages: int) -> Exchange:
        limit = _RESPONSE_BYTES + _RESPONSE_BYTES_PER_MESSAGE * messages
        try:
            response = await self._http.handle_async_request(self._request(path, body))
            try:
                self._status = response.status
                self._move_to(Phase.RECEIVING)
                retry_after = self._retry_after(response.headers)
                received = await _read(response, limit)
            finally:
                await response.aclose()
        except _KNOWN_ERRORS as error:
            return Exchange(self._phase, _fault_of(error), self._status)
        if received is None:
            return Exchange(self._phase, Fault.RESPONSE_TOO_LARGE, self._status)
        self._move_to(Phase.RECEIVED)
        return Exchange(Phase.RECEIVED, Fault.NONE, response.status, received, retry_after)

    async def _observe(self, event: str, _info: Any) -> None:
        """Awaited by httpcore at each step: what may have left the process is known, not guessed from an error."""
        if event == "http11.send_request_headers.started":
            self._move_to(Phase.SENDING)
        elif event == "http11.receive_response_headers.started":
            self._move_to(Phase.AWAITING)

    def _move_to(self, phase: Phase) -> None:
        self._phase = phase
        self._watch(phase)

    def _request(self, path: str, body: bytes) -> httpcore.Request:
        hard = self._timeouts.hard.total_seconds()
        return httpcore.Request(
            b"POST",
            httpcore.URL(
                scheme=self._base.scheme,
                host=self._base.host,
                port=self._base.port,
                target=self._base.target.rstrip(b"/") + path.encode(),
            ),
            headers=[*self._headers, (b"Content-Length", b"%d" % len(body))],
            content=body,
            extensions={"trace": self._observe, "timeout": {"write": hard, "read": hard}},
        )

    def _retry_after(self, headers: list[tuple[bytes, bytes]]) -> timedelta | None:
        for name, value in headers:
            if name.lower() == b"retry-after":
                return parse_retry_after(value.decode("latin-1").strip(), self._now())
        return None


_KNOWN_ERRORS = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ConnectionNotAvailable,
    OSError,
)
# Names for the reasons only: what an error proves is decided by the phase.
_FAULTS: tuple[tuple[type[Exception], Fault], ...] = (
    (httpcore.WriteTimeout, Fault.WRITE_TIMEOUT),
    (httpcore.ReadTimeout, Fault.READ_TIMEOUT),
    (httpcore.NetworkError, Fault.CONNECTION_LOST),
    (httpcore.ProtocolError, Fault.RESPONSE_MALFORMED),
)


def _fault_of(error: BaseException) -> Fault:
    if isinstance(error, httpcore.RemoteProtocolError) and "disconnected" in str(error):
        return Fault.CONNECTION_LOST
    return next((fault for kind, fault in _FAULTS if isinstance(error, kind)), Fault.CONNECTION_LOST)


async def _read(response: httpcore.Response, limit: int) -> bytes | None:
    """The whole body; None when it is larger than `limit` (the connection is then closed with the response)."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.aiter_stream():
        size += len(chunk)
        if size > limit:
            return None
        chunks.append(chunk)
    return b"".join(chunks)


def _host_header(url: httpcore.URL) -> bytes:
    default = 443 if url.scheme == b"https" else 80
    return url.host if url.port in (None, default) else b"%b:%d" % (url.host, url.port)
