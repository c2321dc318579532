"""Connections to the provider: open before a batch is armed, used again while they are good, and never in the dark."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest
import trustme
from pydantic import SecretStr

from bulksms_dispatcher.domain.provider_outcomes import Exchange, Fault, Phase
from bulksms_dispatcher.providers.mitto import SEND_PATH, MittoClient, MittoConnection, NotConnected, Timeouts
from devstack.eventually import eventually

RESPONSE = b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"id":"polite"}'
SECOND = timedelta(seconds=1)


@dataclass
class Server:
    """Answers every request when it is told to, and counts connections."""

    port: int = 0
    connections: int = 0
    requests: int = 0
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    open: set[asyncio.StreamWriter] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.open.add(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
                await reader.readexactly(int(length.partition(b":")[2]))
                self.requests += 1
                await self.may_answer.wait()
                writer.write(RESPONSE)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open.discard(writer)
            writer.close()


@asynccontextmanager
async def answering(context: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server()
    server.may_answer.set()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=context)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()
        for writer in list(server.open):
            writer.close()
        await eventually(lambda: not server.open)


@asynccontextmanager
async def client_of(
    url: str, *, connections: int = 4, keepalive: timedelta = SECOND * 10, timeouts: Timeouts | None = None
) -> AsyncIterator[MittoClient]:
    client = MittoClient(
        url, SecretStr("key"), timeouts or Timeouts(pool=SECOND / 10), connections=connections, keepalive=keepalive
    )
    yield client
    await client.close()


async def send(connection: MittoConnection, watch: Callable[[Phase], None] = lambda _phase: None) -> Exchange | None:
    return await connection.send(SEND_PATH, b"{}", 1, watch=watch)


async def send_one(client: MittoClient) -> Exchange:
    async with client.connection() as connection:
        exchange = await send(connection)
    assert exchange is not None
    return exchange


async def test_the_connection_is_open_before_the_first_byte_and_every_phase_is_seen() -> None:
    phases: list[Phase] = []
    async with (
        answering() as server,
        client_of(f"http://127.0.0.1:{server.port}") as client,
        client.connection() as connection,
    ):
        await eventually(lambda: server.connections == 1)
        assert server.requests == 0
        exchange = await send(connection, phases.append)
    assert exchange is not None
    assert (exchange.phase, exchange.fault, exchange.status) == (Phase.RECEIVED, Fault.NONE, 200)
    assert phases == [Phase.SENDING, Phase.AWAITING, Phase.RECEIVING, Phase.RECEIVED]


async def test_a_connection_is_used_again_until_it_is_old_or_closed_by_the_server() -> None:
    async with answering() as server, client_of(f"http://127.0.0.1:{server.port}") as client:
        for _ in range(3):
            assert (await send_one(client)).status == 200
        assert server.connections == 1
        for writer in list(server.open):
            writer.close()
        await eventually(lambda: not server.open)
        assert (await send_one(client)).status == 200
        assert server.connections == 2
    async with answering() as server:
        async with client_of(f"http://127.0.0.1:{server.port}", keepalive=timedelta(0)) as client:
            for _ in range(3):
                await send_one(client)
        assert server.connections == 3


async def test_who_finds_no_connection_free_in_time_has_sent_nothing() -> None:
    async with answering() as server, client_of(f"http://127.0.0.1:{server.port}", connections=1) as client:
        async with client.connection():
            with pytest.raises(NotConnected) as none_free:
                await send_one(client)
        assert none_free.value.exchange == Exchange(Phase.WAITING, Fault.POOL_TIMEOUT)
        assert (await send_one(client)).status == 200
        assert server.requests == 1


async def test_a_server_that_refuses_connections_was_sent_nothing() -> None:
    async with answering() as server:
        port = server.port
    async with client_of(f"http://127.0.0.1:{port}") as client:
        with pytest.raises(NotConnected) as refused:
            await send_one(client)
        assert refused.value.exchange == Exchange(Phase.CONNECTING, Fault.CONNECT_FAILED)


async def test_a_late_response_is_read_on_and_given_up_in_the_end() -> None:
    timeouts = Timeouts(soft=SECOND / 10, hard=SECOND * 30)
    async with answering() as server, client_of(f"http://127.0.0.1:{server.port}", timeouts=timeouts) as client:
        server.may_answer.clear()
        async with client.connection() as connection:
            assert await send(connection) is None
            server.may_answer.set()
            assert (await connection.late_response()).status == 200
        server.may_answer.clear()
        async with client.connection() as connection:
            assert await send(connection) is None
            assert server.connections == 1
        server.may_answer.set()
        # The response nobody waited for must not become another request's: its connection was closed.
        assert (await send_one(client)).status == 200
        assert server.connections == 2
    timeouts = Timeouts(soft=SECOND / 10, hard=SECOND / 5)
    async with answering() as server, client_of(f"http://127.0.0.1:{server.port}", timeouts=timeouts) as client:
        server.may_answer.clear()
        async with client.connection() as connection:
            assert await send(connection) is None
            assert await connection.late_response() == Exchange(Phase.AWAITING, Fault.READ_TIMEOUT)
        server.may_answer.set()


async def test_over_tls_only_a_server_of_that_name_is_sent_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    async with answering(context) as server:
        async with client_of(f"https://localhost:{server.port}") as client:
            assert (await send_one(client)).status == 200
        async with client_of(f"https://127.0.0.1:{server.port}") as stranger:
            with pytest.raises(NotConnected) as refused:
                await send_one(stranger)
        assert refused.value.exchange == Exchange(Phase.CONNECTING, Fault.CONNECT_FAILED)
        assert server.requests == 1
