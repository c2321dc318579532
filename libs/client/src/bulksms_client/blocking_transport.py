"""Makes calls over blocking channels. Its twin is `asyncio_transport.py`; all above the two is written once.

gRPC's own blocking channels, not an event loop in a thread: two loops of gRPC's asyncio flavour in one process disturb
each other, and an application may well have one of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator
from typing import TypeVar, cast

import grpc
from google.protobuf.message import Message

from bulksms_client.calls import Call, call_for
from bulksms_client.channels import channel_arguments
from bulksms_client.errors import BulkSmsError
from bulksms_client.options import ClientOptions
from bulksms_client.statuses import CallFailure, decode
from bulksms_client.tracing import trace_metadata
from bulksms_client.uploads import Upload

__all__ = ["Transport"]

RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT", bound=Message)


class Transport:
    """Channels to the services, opened at first use, and the three kinds of call the contract has. Thread-safe."""

    def __init__(self, options: ClientOptions) -> None:
        self.options = options
        self._channels: dict[str, grpc.Channel] = {}
        self._opening = threading.Lock()

    def unary(self, request: Message, response_type: type[ResponseT], *, timeout: float | None = None) -> ResponseT:
        """One request, one response; repeated by gRPC while the service is unavailable, within the deadline."""
        call = self._call(type(request), response_type, timeout)
        stub = self._channel(call.peer).unary_unary(
            call.path,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response_type.FromString,
        )
        try:
            return stub(request, timeout=call.timeout_seconds, metadata=self._metadata())
        except grpc.RpcError as error:
            raise self._decoded(error, call) from error

    def upload(
        self,
        requests: Iterator[RequestT],
        request_type: type[RequestT],
        response_type: type[ResponseT],
        *,
        timeout: float | None = None,
    ) -> ResponseT:
        """A stream of requests, one response; never repeated. Requests are made as fast as the service takes them."""
        upload = self.begin_upload(requests, request_type, response_type, timeout=timeout)
        try:
            return upload.result()
        finally:
            upload.cancel()

    def begin_upload(
        self,
        requests: Iterator[RequestT],
        request_type: type[RequestT],
        response_type: type[ResponseT],
        *,
        timeout: float | None = None,
    ) -> Upload[RequestT, ResponseT]:
        """The same, without waiting for the response."""
        call = self._call(request_type, response_type, timeout)
        upload = Upload[RequestT, ResponseT](requests, call, self.options.address(call.peer))
        return upload.begin(self._channel(call.peer), request_type, response_type)

    def download(
        self, request: Message, response_type: type[ResponseT], *, timeout: float | None = None
    ) -> Generator[ResponseT, None, None]:
        """One request, a stream of responses; never repeated. Leaving the loop early cancels the call."""
        call = self._call(type(request), response_type, timeout)
        stub = self._channel(call.peer).unary_stream(
            call.path,
            request_serializer=type(request).SerializeToString,
            response_deserializer=response_type.FromString,
        )
        stream = stub(request, timeout=call.timeout_seconds, metadata=self._metadata())
        try:
            yield from stream
        except grpc.RpcError as error:
            raise self._decoded(error, call) from error
        finally:
            stream.cancel()

    def sleep(self, seconds: float) -> None:
        """Wait between two attempts."""
        time.sleep(seconds)

    def close(self) -> None:
        """Close the channels; calls under way are cancelled."""
        with self._opening:
            while self._channels:
                _, channel = self._channels.popitem()
                channel.close()

    def _decoded(self, error: object, call: Call) -> BulkSmsError:
        # A blocking call's error is the call itself, and the call its error: it knows code, text and trailers.
        return decode(cast("CallFailure", error), call, self.options.address(call.peer))

    def _call(self, request: type[Message], response: type[Message], timeout: float | None) -> Call:
        return call_for(request, response, timeout, self.options.timeout_seconds)

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return trace_metadata() + self.options.identity

    def _channel(self, peer: str) -> grpc.Channel:
        with self._opening:
            if peer not in self._channels:
                address, tls = self.options.address(peer), self.options.tls
                arguments = channel_arguments(tls)
                self._channels[peer] = (
                    grpc.insecure_channel(address, arguments)
                    if tls is None
                    else grpc.secure_channel(address, tls.credentials(), arguments)
                )
            return self._channels[peer]
