"""The listening socket: where connections come from, and how they are refused for a while."""

from __future__ import annotations

import asyncio
import socket
import time

from devstack.mitto.protocol import IDLE_SECONDS, Connection, Handler

MAX_CONNECTIONS = 2_000
BACKLOG = 1_024


class Server:
    """Listens on one address and keeps count of the connections."""

    def __init__(self, handler: Handler, host: str, port: int) -> None:
        """Port 0 takes a free one, and keeps it from then on."""
        self._handler = handler
        self._host = host
        self._port = port
        self._server: asyncio.Server | None = None
        self._reopening: asyncio.Task[None] | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self.connections: set[Connection] = set()
        self.connections_opened = 0

    @property
    def address(self) -> str:
        """host:port as clients reach it."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self._port}"

    async def start(self) -> None:
        """Listen."""
        await self._listen()
        self._sweep_idle()

    def refuse(self, seconds: float, *, drop: bool = False, keep: int | None = None) -> None:
        """Close the listening socket for so long; connections there are stay, or are reset, all but `keep`."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if drop:
            for connection in tuple(self.connections):
                if connection.number != keep:
                    connection.reset()
        if self._reopening is not None:
            self._reopening.cancel()
        self._reopening = asyncio.get_running_loop().create_task(self._reopen(seconds))

    async def close(self, grace_seconds: float) -> None:
        """Stop listening, let responses end, close."""
        if self._reopening is not None:
            self._reopening.cancel()
        if self._server is not None:
            self._server.close()
        if self._sweep is not None:
            self._sweep.cancel()
        await asyncio.gather(*(connection.finish(grace_seconds) for connection in tuple(self.connections)))

    async def _listen(self) -> None:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        # Without this the port could not be taken again while old connections linger.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self._host, self._port))
        except OSError:
            listener.close()
            raise
        listener.setblocking(False)
        self._port = listener.getsockname()[1]
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connect, sock=listener, backlog=BACKLOG)

    async def _reopen(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._listen()

    def _connect(self) -> asyncio.Protocol:
        if len(self.connections) >= MAX_CONNECTIONS:
            return _RefusedConnection()
        self.connections_opened += 1
        return Connection(self._handler, self.connections_opened, self.connections)

    def _sweep_idle(self) -> None:
        before = time.monotonic() - IDLE_SECONDS
        for connection in tuple(self.connections):
            connection.close_when_idle(before)
        self._sweep = asyncio.get_running_loop().call_later(5.0, self._sweep_idle)


class _RefusedConnection(asyncio.Protocol):
    """A connection beyond the limit."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()
