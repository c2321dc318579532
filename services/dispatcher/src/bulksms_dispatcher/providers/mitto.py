"""Mitto's Messaging API: one POST per batch, over connections whose every step is watched."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpcore
from pydantic import SecretStr

from bulksms_dispatcher.domain.provider_outcomes import Exchange, Fault, Phase
from bulksms_dispatcher.providers.retry_after import parse_retry_after

__all__ = ["BULK_PATH", "SEND_PATH", "MittoClient", "NotArmed", "Timeouts"]

BULK_PATH = "/api/v1.1/Messages/sendmessagesbulk"
SEND_PATH = "/api/v1.1/Messages/send"

# A polite answer has about 110 bytes a message; ten times that is no answer any more.
_ANSWER_BYTES = 64 * 1024
_ANSWER_BYTES_PER_MESSAGE = 1024


class NotArmed(Exception):  # noqa: N818 - said by `arm`, not an error of the exchange
    """The batch is not ours any more, or arming it failed: nothing may be sent."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """`soft` and `hard` count from the first byte: past `soft` the answer is late, past `hard` it is given up."""

    connect: timedelta = timedelta(seconds=5)
    pool: timedelta = timedelta(seconds=5)
    soft: timedelta = timedelta(seconds=30)
    hard: timedelta = timedelta(seconds=120)


class MittoClient:
    """HTTP/1.1 with keep-alive; follows no redirect, retries nothing, reads nothing from the environment."""

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
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl.create_default_context() if self._base.scheme == b"https" else None,
            max_connections=connections,
            max_keepalive_connections=connections,
            # Shorter than any server's patience: a connection closed under a request makes the batch ambiguous.
            keepalive_expiry=keepalive.total_seconds(),
            http1=True,
            http2=False,
            retries=0,
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
        await self._pool.aclose()

    async def post(
        self,
        path: str,
        body: bytes,
        messages: int,
        *,
        arm: Callable[[], Awaitable[None]],
        on_late: Callable[[], Awaitable[None]],
        on_phase: Callable[[Phase], None] = lambda _phase: None,
        on_written: Callable[[], None] = lambda: None,
    ) -> Exchange:
        """Send one request and say what was seen of it; raises nothing but cancellation and what `on_late` raises.

        `arm` is awaited when a connection is open and the first byte is about to be written; NotArmed from it stops
        there. `on_late` is awaited once when the answer is not there after the soft timeout; reading goes on.
        `on_written` is called when the last byte was handed to the system.
        """
        progress = _Progress(arm, on_phase, on_written)
        exchange = asyncio.create_task(self._exchange(path, body, messages, progress), name="mitto.post")
        try:
            sending = asyncio.create_task(progress.sending.wait())
            await asyncio.wait({exchange, sending}, return_when=asyncio.FIRST_COMPLETED)
            sending.cancel()
            await asyncio.wait({exchange}, timeout=self._timeouts.soft.total_seconds())
            if not exchange.done():
                await on_late()
                late = self._timeouts.hard - self._timeouts.soft
                await asyncio.wait({exchange}, timeout=late.total_seconds())
            return exchange.result() if exchange.done() else Exchange(progress.phase, Fault.READ_TIMEOUT)
        finally:
            if not exchange.done():
                exchange.cancel()
                # Not awaited for long: a connection that does not close is not worth a worker.
                await asyncio.wait({exchange}, timeout=1.0)

    async def _exchange(self, path: str, body: bytes, messages: int, progress: _Progress) -> Exchange:
        timeouts = self._timeouts
        request = httpcore.Request(
            b"POST",
            self._url(path),
            headers=[*self._headers, (b"Content-Length", b"%d" % len(body))],
            content=body,
            extensions={
                "trace": progress.observe,
                "timeout": {
                    "pool": timeouts.pool.total_seconds(),
                    "connect": timeouts.connect.total_seconds(),
                    "write": timeouts.hard.total_seconds(),
                    "read": timeouts.hard.total_seconds(),
                },
            },
        )
        limit = _ANSWER_BYTES + _ANSWER_BYTES_PER_MESSAGE * messages
        try:
            response = await self._pool.handle_async_request(request)
            try:
                progress.status = response.status
                progress.move_to(Phase.ANSWERING)
                retry_after = self._retry_after(response.headers)
                answer = await _read(response, limit)
            finally:
                await response.aclose()
        except _KNOWN_ERRORS as error:
            return Exchange(progress.phase, _fault_of(error), progress.status)
        if answer is None:
            return Exchange(progress.phase, Fault.ANSWER_TOO_LARGE, progress.status)
        progress.move_to(Phase.ANSWERED)
        return Exchange(Phase.ANSWERED, Fault.NONE, response.status, answer, retry_after)

    def _url(self, path: str) -> httpcore.URL:
        return httpcore.URL(
            scheme=self._base.scheme,
            host=self._base.host,
            port=self._base.port,
            target=self._base.target.rstrip(b"/") + path.encode(),
        )

    def _retry_after(self, headers: list[tuple[bytes, bytes]]) -> timedelta | None:
        for name, value in headers:
            if name.lower() == b"retry-after":
                return parse_retry_after(value.decode("latin-1").strip(), self._now())
        return None


class _Progress:
    """How far one request came. httpcore awaits `observe` at each step, so arming happens exactly between the two."""

    def __init__(
        self, arm: Callable[[], Awaitable[None]], on_phase: Callable[[Phase], None], on_written: Callable[[], None]
    ) -> None:
        self.phase = Phase.WAITING
        self.status = 0
        self.sending = asyncio.Event()
        self._arm = arm
        self._on_phase = on_phase
        self._on_written = on_written
        self._armed = False

    def move_to(self, phase: Phase) -> None:
        self.phase = phase
        self._on_phase(phase)

    async def observe(self, event: str, _info: Any) -> None:
        if event in ("connection.connect_tcp.started", "connection.start_tls.started"):
            self.move_to(Phase.CONNECTING)
        elif event == "http11.send_request_headers.started":
            if self._armed:
                raise NotArmed("httpcore began to send the same request twice")
            self.move_to(Phase.CONNECTED)
            await self._arm()
            self._armed = True
            # From here on a byte may have left, whatever the next write says.
            self.move_to(Phase.SENDING)
            self.sending.set()
        elif event == "http11.receive_response_headers.started":
            self._on_written()


_KNOWN_ERRORS = (
    NotArmed,
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ConnectionNotAvailable,
    httpcore.UnsupportedProtocol,
    OSError,
)
# Names for the reasons only: what an error proves is decided by the phase.
_FAULTS: tuple[tuple[type[Exception], Fault], ...] = (
    (NotArmed, Fault.NOT_ARMED),
    (httpcore.PoolTimeout, Fault.POOL_TIMEOUT),
    (httpcore.ConnectTimeout, Fault.CONNECT_TIMEOUT),
    (httpcore.WriteTimeout, Fault.WRITE_TIMEOUT),
    (httpcore.ReadTimeout, Fault.READ_TIMEOUT),
    (httpcore.ConnectError, Fault.CONNECT_FAILED),
    (httpcore.NetworkError, Fault.CONNECTION_LOST),
    (httpcore.ProtocolError, Fault.ANSWER_MALFORMED),
    (ssl.SSLError, Fault.CONNECT_FAILED),
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
