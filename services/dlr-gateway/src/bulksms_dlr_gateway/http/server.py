"""The listening side of HTTP: a component that keeps its connections within bounds and drains them at the end."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from email.utils import formatdate

from bulksms_dlr_gateway.http.connection import Connection, ConnectionLimits
from bulksms_dlr_gateway.http.messages import Handler
from servicekit import logs
from servicekit.settings import Endpoint
from servicekit.waiting import is_set_within

__all__ = ["HttpServer"]

_log = logs.get_logger("bulksms.dlr_gateway.server")
_SWEEP_SECONDS = 1.0
_BACKLOG = 1_024
_MAX_BUFFERED_BYTES = 64 * 1024 * 1024


class HttpServer:
    """Serves `handler` on `listen`; `port` is known after start."""

    def __init__(
        self,
        listen: Endpoint,
        handler: Handler,
        limits: ConnectionLimits,
        *,
        max_connections: int,
        grace: timedelta,
    ) -> None:
        self.name = "http server"
        self.handler = handler
        self.limits = limits
        self.port = 0
        self.date = b""
        self._listen = listen
        self._max_connections = max_connections
        self._grace = grace.total_seconds()
        self._connections: set[Connection] = set()
        self._turned_away: set[Connection] = set()
        self._buffered_bytes = 0
        self._stopping = asyncio.Event()
        self._empty = asyncio.Event()

    async def start(self) -> None:
        """Listen."""
        self._set_date()
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Connection(self), self._listen.host, self._listen.port, backlog=_BACKLOG
        )
        self.port = self._server.sockets[0].getsockname()[1]
        _log.info("http listening", host=self._listen.host, port=self.port)

    async def run(self) -> None:
        """Watch over the connections' deadlines until stopped."""
        loop = asyncio.get_running_loop()
        while not await is_set_within(self._stopping, _SWEEP_SECONDS):
            self._sweep(loop.time())

    async def stop(self) -> None:
        """Not ready, no new connections, finish what has begun, cut what outlasts the grace."""
        self.handler.drain()
        self._server.close()
        for connection in list(self._connections):
            connection.close_when_answered()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._grace):
                while self._connections:
                    self._empty.clear()
                    await self._empty.wait()
        for connection in [*self._connections, *self._turned_away]:
            connection.abort()
        self._stopping.set()
        await self._server.wait_closed()

    def join(self, connection: Connection) -> bool:
        """Count a connection in; False when there are too many and it is to be refused."""
        if len(self._connections) < self._max_connections and not self._stopping.is_set():
            self._connections.add(connection)
            return True
        # Its refusal takes a moment; when even those being refused are too many, it is cut off.
        if len(self._turned_away) < self._max_connections:
            self._turned_away.add(connection)
        else:
            connection.abort()
        return False

    def leave(self, connection: Connection) -> None:
        """Count a connection out."""
        self._connections.discard(connection)
        self._turned_away.discard(connection)
        if not self._connections:
            self._empty.set()

    def reserve(self, size: int) -> bool:
        """Room for that much of a body; False when all connections together hold too much."""
        if self._buffered_bytes + size > _MAX_BUFFERED_BYTES:
            return False
        self._buffered_bytes += size
        return True

    def release(self, size: int) -> None:
        """Give room back."""
        self._buffered_bytes -= size

    def _sweep(self, now: float) -> None:
        self._set_date()
        for connection in [*self._connections, *self._turned_away]:
            connection.enforce_deadline(now)

    def _set_date(self) -> None:
        self.date = f"Date: {formatdate(usegmt=True)}\r\n".encode()
