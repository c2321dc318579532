"""A client stream over a blocking channel, for both clients.

For asyncio too: when a service refuses a stream that is still being sent, gRPC's asyncio flavour replaces the refusal
with "Internal error from Core" about every other time (grpc/grpc#36066). The blocking one reports it as it is.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar, cast

import grpc
from google.protobuf.message import Message

from bulksms_client.calls import Call
from bulksms_client.statuses import CallFailure, decode
from bulksms_client.tracing import trace_metadata

__all__ = ["Upload"]

RequestT = TypeVar("RequestT", bound=Message)
ResponseT = TypeVar("ResponseT", bound=Message)


ResponseT_co = TypeVar("ResponseT_co", covariant=True)


class _Stream(Protocol[ResponseT_co]):
    def result(self) -> ResponseT_co: ...

    def cancel(self) -> bool: ...


class Upload(Generic[RequestT, ResponseT]):
    """An upload under way. gRPC draws the requests in a thread of its own, as fast as the service takes them.

    A failure of their source cancels the call and is raised: were it to look like the end, the service would take half
    a file for the whole.
    """

    def __init__(self, requests: Iterator[RequestT], call: Call, address: str) -> None:
        self._requests = requests
        self._call = call
        self._address = address
        self._failure: Exception | None = None
        self._begun = threading.Event()
        self._stream: _Stream[ResponseT] | None = None

    def begin(
        self, channel: grpc.Channel, request_type: type[RequestT], response_type: type[ResponseT]
    ) -> Upload[RequestT, ResponseT]:
        """Begin to send; returns at once."""
        stub = channel.stream_unary(
            self._call.path,
            request_serializer=request_type.SerializeToString,
            response_deserializer=response_type.FromString,
        )
        self._stream = stub.future(self, timeout=self._call.timeout_seconds, metadata=trace_metadata())
        self._begun.set()
        return self

    def result(self) -> ResponseT:
        """Wait for the response. Raises the source's failure, or a BulkSmsError."""
        if self._stream is None:
            raise RuntimeError("the upload has not begun")
        try:
            return self._stream.result()
        except (grpc.RpcError, grpc.FutureCancelledError) as error:
            if self._failure is not None:
                raise self._failure from None
            raise decode(cast("CallFailure", self._stream), self._call, self._address) from error

    def cancel(self) -> None:
        """End the call; nothing happens when it has ended."""
        if self._stream is not None:
            self._stream.cancel()

    def __iter__(self) -> Iterator[RequestT]:
        return self

    def __next__(self) -> RequestT:
        self._begun.wait()
        try:
            return next(self._requests)
        except StopIteration:
            raise
        except Exception as error:
            self._failure = error
            self.cancel()
            raise StopIteration from error
