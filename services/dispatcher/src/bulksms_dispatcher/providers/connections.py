"""Connections to one HTTP server: opened before anything is promised, used again while they are good."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import httpcore

from bulksms_dispatcher.domain.provider_outcomes import Exchange, Fault, Phase

__all__ = ["ConnectTimeouts", "Connections", "NotConnected"]

# Not awaited for longer: a connection that does not close is not worth a worker.
_CLOSE_SECONDS = 1.0


class NotConnected(Exception):  # noqa: N818 - what became of an exchange that never began
    """No connection was open: of the request nothing has left this process, whatever the cause."""

    def __init__(self, exchange: Exchange) -> None:
        super().__init__(exchange.fault.value)
        self.exchange = exchange


@dataclass(frozen=True, slots=True)
class ConnectTimeouts:
    """How long to wait for a connection that is in use by another, and for a new one to open."""

    pool: timedelta
    connect: timedelta


class Connections:
    """HTTP/1.1 with keep-alive to one server, at most `limit` at a time.

    httpcore's own pool picks a connection and sends on it in one call. Here the two are apart, because a batch is armed
    between them: on a connection that is open already, right before the first byte.
    """

    def __init__(self, server: httpcore.URL, timeouts: ConnectTimeouts, *, limit: int, keepalive: timedelta) -> None:
        self._server = server
        self._timeouts = timeouts
        # Shorter than any server's patience: a connection closed under a request makes its batch ambiguous.
        self._keepalive = keepalive.total_seconds()
        self._network = httpcore.AnyIOBackend()
        self._tls = _tls_context() if server.scheme == b"https" else None
        self._in_use = asyncio.Semaphore(limit)
        self._idle: list[httpcore.AsyncHTTP11Connection] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[httpcore.AsyncHTTP11Connection]:
        """An open connection for one exchange; raises NotConnected."""
        await self._wait_for_turn()
        connection: httpcore.AsyncHTTP11Connection | None = None
        try:
            connection = await self._take_idle() or await self._connect()
            yield connection
        finally:
            self._in_use.release()
            if connection is not None:
                await self._give_back(connection)

    async def close(self) -> None:
        """Close those that are idle."""
        while self._idle:
            await _close(self._idle.pop())

    async def _wait_for_turn(self) -> None:
        try:
            async with asyncio.timeout(self._timeouts.pool.total_seconds()):
                await self._in_use.acquire()
        except TimeoutError:
            raise NotConnected(Exchange(Phase.WAITING, Fault.POOL_TIMEOUT)) from None

    async def _take_idle(self) -> httpcore.AsyncHTTP11Connection | None:
        """The one used last, which is the least likely to be closed by the server meanwhile."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.has_expired():
                return connection
            await _close(connection)
        return None

    async def _connect(self) -> httpcore.AsyncHTTP11Connection:
        origin, seconds = self._server.origin, self._timeouts.connect.total_seconds()
        host = origin.host.decode("ascii")
        try:
            stream = await self._network.connect_tcp(host, origin.port, timeout=seconds)
            if self._tls is not None:
                stream = await stream.start_tls(self._tls, server_hostname=host, timeout=seconds)
        except httpcore.TimeoutException as error:
            raise NotConnected(Exchange(Phase.CONNECTING, Fault.CONNECT_TIMEOUT)) from error
        except (httpcore.NetworkError, OSError) as error:
            raise NotConnected(Exchange(Phase.CONNECTING, Fault.CONNECT_FAILED)) from error
        return httpcore.AsyncHTTP11Connection(origin, stream, keepalive_expiry=self._keepalive)

    async def _give_back(self, connection: httpcore.AsyncHTTP11Connection) -> None:
        if connection.is_idle():
            self._idle.append(connection)
        else:
            await _close(connection)


def _tls_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


async def _close(connection: httpcore.AsyncHTTP11Connection) -> None:
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await connection.aclose()
    except (httpcore.NetworkError, OSError):  # TimeoutError is one
        pass
