"""Connections: sent away at a certain age without an error, and encrypted where certificates are given."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
import trustme
from google.protobuf.wrappers_pb2 import StringValue

from servicekit.grpc.client import Tls, open_channel
from servicekit.grpc.server import GrpcServer, build_server
from servicekit.settings import Endpoint, ServiceSettings

SERVICE = "test.Peers"
NAME = "peers.test"
CODEC = {"request_serializer": StringValue.SerializeToString, "response_deserializer": StringValue.FromString}


class Peers:
    """Answers with the address of the connection the call came over: each new connection has one of its own."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    async def ask(self, _request: StringValue, context: grpc.aio.ServicerContext) -> StringValue:
        self.seen.add(context.peer())
        return StringValue(value=context.peer())

    async def watch(self, _request: StringValue, context: grpc.aio.ServicerContext) -> AsyncIterator[StringValue]:
        while True:
            yield StringValue(value=context.peer())
            await asyncio.sleep(0.01)


def add_to_server(peers: Peers, server: grpc.aio.Server) -> None:
    codec = {"request_deserializer": StringValue.FromString, "response_serializer": StringValue.SerializeToString}
    handlers = {
        "Ask": grpc.unary_unary_rpc_method_handler(peers.ask, **codec),
        "Watch": grpc.unary_stream_rpc_method_handler(peers.watch, **codec),
    }
    server.add_registered_method_handlers(SERVICE, handlers)


@asynccontextmanager
async def serving(
    peers: Peers, credentials: grpc.ServerCredentials | None = None, **settings: object
) -> AsyncIterator[GrpcServer]:
    values: dict[str, Any] = {"grpc_listen": Endpoint("127.0.0.1", 0), "shutdown_grace_seconds": 0.2, **settings}
    servicers = [(add_to_server, peers, SERVICE)]
    server = build_server(
        ServiceSettings(**values), servicers, endless_methods=[f"{SERVICE}/Watch"], credentials=credentials
    )
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


async def ask(channel: grpc.aio.Channel) -> str:
    answer = await channel.unary_unary(f"/{SERVICE}/Ask", **CODEC)(StringValue(), timeout=5)
    return str(answer.value)


def watch(channel: grpc.aio.Channel) -> grpc.aio.UnaryStreamCall:
    return channel.unary_stream(f"/{SERVICE}/Watch", **CODEC)(StringValue(), timeout=30)


async def test_a_long_lived_client_outlives_aged_connections_without_an_error() -> None:
    peers = Peers()
    async with (
        serving(peers, grpc_max_connection_age_seconds=0.1, grpc_max_connection_age_grace_seconds=5) as server,
        # Nothing is declared idempotent: not one of these calls is repeated by a retry policy.
        open_channel(server.address) as channel,
        asyncio.timeout(30),
    ):
        while len(peers.seen) < 5:
            await asyncio.gather(*(ask(channel) for _ in range(8)))


async def test_a_stream_goes_on_through_the_grace_while_new_calls_take_a_new_connection() -> None:
    peers = Peers()
    async with (
        serving(peers, grpc_max_connection_age_seconds=0.1, grpc_max_connection_age_grace_seconds=30) as server,
        open_channel(server.address) as channel,
        asyncio.timeout(30),
    ):
        stream = watch(channel)
        first = (await stream.read()).value
        while await ask(channel) == first:
            pass
        assert [(await stream.read()).value for _ in range(10)] == [first] * 10
        stream.cancel()


async def test_a_stream_that_outlives_the_grace_ends_as_unavailable_which_callers_repeat() -> None:
    peers = Peers()
    async with (
        serving(peers, grpc_max_connection_age_seconds=0.1, grpc_max_connection_age_grace_seconds=0.1) as server,
        open_channel(server.address) as channel,
        asyncio.timeout(30),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as cut:
            async for _ in watch(channel):
                pass
        assert cut.value.code() is grpc.StatusCode.UNAVAILABLE
        assert (await watch(channel).read()).value  # at once, over a connection of its own


async def test_without_an_age_a_connection_is_kept() -> None:
    peers = Peers()
    async with serving(peers, grpc_max_connection_age_seconds=0) as server, open_channel(server.address) as channel:
        assert len({await ask(channel) for _ in range(50)}) == 1


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def server_credentials(authority: trustme.CA, *, mutual: bool = False) -> grpc.ServerCredentials:
    issued = authority.issue_cert(NAME)
    pair = (issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())
    return grpc.ssl_server_credentials([pair], authority.cert_pem.bytes() if mutual else None, mutual)


async def test_a_channel_with_the_right_authority_is_answered_over_tls(authority: trustme.CA) -> None:
    tls = Tls(root_certificates=authority.cert_pem.bytes(), server_name=NAME)
    async with (
        serving(Peers(), server_credentials(authority)) as server,
        open_channel(server.address, tls=tls) as channel,
    ):
        assert await ask(channel)


@pytest.mark.parametrize("wrong", ["authority", "name", "plain text"])
async def test_a_server_that_is_not_the_one_meant_is_not_talked_to(authority: trustme.CA, wrong: str) -> None:
    trusted = trustme.CA() if wrong == "authority" else authority
    tls = Tls(trusted.cert_pem.bytes(), server_name="other.test" if wrong == "name" else NAME)
    peers = Peers()
    async with (
        serving(peers, server_credentials(authority)) as server,
        open_channel(server.address, tls=None if wrong == "plain text" else tls) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ask(channel)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        said = {
            "authority": "certificate_verify_failed",
            "name": "Hostname Verification Check failed",
            "plain text": "",
        }
        assert said[wrong].lower() in (refused.value.details() or "").lower()
    assert not peers.seen


async def test_with_mutual_tls_only_a_caller_with_a_certificate_is_answered(authority: trustme.CA) -> None:
    own = authority.issue_cert("caller.test")
    roots = authority.cert_pem.bytes()
    known = Tls(roots, own.private_key_pem.bytes(), own.cert_chain_pems[0].bytes(), NAME)
    peers = Peers()
    async with (
        serving(peers, server_credentials(authority, mutual=True)) as server,
        open_channel(server.address, tls=known) as channel,
        open_channel(server.address, tls=Tls(roots, server_name=NAME)) as stranger,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await ask(stranger)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
        assert not peers.seen
        assert await ask(channel)
