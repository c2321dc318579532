"""Makes calls over asyncio channels. Its twin is `blocking_transport.py`; all above the two is written once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from typing import TypeVar

import grpc
from google.protobuf.message import Message

from bulksms_client.blocking_transport import Transport as BlockingTransport
from bulksms_client.calls import Call, call_for
from bulksms_client.channels import channel_arguments
from bulksms_client.options import ClientOptions
from bulksms_client.statuses import decode
from bulksms_client.tracing import trace_metadata

__all__ = ["Transport"]

RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT", bound=Message)


class Transport:
    """Channels to the services, opened at first use, and the three kinds of call the contract has."""

    def __init__(self, options: ClientOptions) -> None:
        self.options = options
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._uploads = BlockingTransport(options)  # see `uploads` for why

    async def unary(
        self, request: Message, response_type: type[ResponseT], *, timeout: float | None = None
    ) -> ResponseT:
        """One request, one response; repeated by gRPC while the service is unavailable, within the deadline."""
        call = self._call(type(request), response_type, timeout)
        stub = self._channel(call.peer).unary_unary(
            call.path,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response_type.FromString,
        )
        try:
            return await stub(request, timeout=call.timeout_seconds, metadata=self._metadata())
        except grpc.aio.AioRpcError as error:
            raise decode(error, call, self.options.address(call.peer)) from error

    async def upload(
        self,
        requests: Iterator[RequestT],
        request_type: type[RequestT],
        response_type: type[ResponseT],
        *,
        timeout: float | None = None,
    ) -> ResponseT:
        """A stream of requests, one response; never repeated. Requests are made as fast as the service takes them."""
        upload = self._uploads.begin_upload(requests, request_type, response_type, timeout=timeout)
        try:
            return await asyncio.to_thread(upload.result)
        finally:
            upload.cancel()  # when this task is cancelled the thread ends, too

    async def download(
        self, request: Message, response_type: type[ResponseT], *, timeout: float | None = None
    ) -> AsyncGenerator[ResponseT, None]:
        """One request, a stream of responses; never repeated. Leaving the loop early cancels the call."""
        call = self._call(type(request), response_type, timeout)
        stub = self._channel(call.peer).unary_stream(
            call.path,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response_type.FromString,
        )
        stream = stub(request, timeout=call.timeout_seconds, metadata=self._metadata())
        try:
            async for response in stream:
                yield response
        except grpc.aio.AioRpcError as error:
            raise decode(error, call, self.options.address(call.peer)) from error
        finally:
            stream.cancel()

    async def sleep(self, seconds: float) -> None:
        """Wait between two attempts."""
        await asyncio.sleep(seconds)

    async def close(self) -> None:
        """Close the channels; calls under way are cancelled."""
        while self._channels:
            _, channel = self._channels.popitem()
            await channel.close()
        await asyncio.to_thread(self._uploads.close)

    def _call(self, request: type[Message], response: type[Message], timeout: float | None) -> Call:
        return call_for(request, response, timeout, self.options.timeout_seconds)

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return trace_metadata() + self.options.identity

    def _channel(self, peer: str) -> grpc.aio.Channel:
        if peer not in self._channels:
            address, tls = self.options.address(peer), self.options.tls
            arguments = channel_arguments(tls)
            self._channels[peer] = (
                grpc.aio.insecure_channel(address, arguments)
                if tls is None
                else grpc.aio.secure_channel(address, tls.credentials(), arguments)
            )
        return self._channels[peer]
