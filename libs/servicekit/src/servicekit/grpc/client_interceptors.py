"""Around every outgoing call: a span, the trace context in its metadata, and a deadline."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable
from datetime import timedelta
from typing import Any

import grpc
from opentelemetry import metrics, propagate, trace

from servicekit import deadlines
from servicekit.grpc.calls import CallRecorder, RecordedCall

__all__ = ["DEADLINE_MARGIN", "client_interceptors"]

DEADLINE_MARGIN = timedelta(milliseconds=50)
"""What an outgoing call leaves of the incoming call's time, so that there is time to answer."""

Details = grpc.aio.ClientCallDetails
Requests = AsyncIterable[Any] | Iterable[Any]


def client_interceptors(
    *,
    default_timeout: timedelta,
    stream_timeout: timedelta | None,
    tracer_provider: trace.TracerProvider | None = None,
    meter_provider: metrics.MeterProvider | None = None,
) -> list[grpc.aio.ClientInterceptor]:
    """For `grpc.aio.*_channel(interceptors=…)`; one object per kind, as grpc.aio sorts them by their first base."""
    calls = _OutgoingCalls(CallRecorder("client", tracer_provider, meter_provider), default_timeout, stream_timeout)
    return [_UnaryUnary(calls), _UnaryStream(calls), _StreamUnary(calls), _StreamStream(calls)]


class _OutgoingCalls:
    def __init__(self, recorder: CallRecorder, default_timeout: timedelta, stream_timeout: timedelta | None) -> None:
        self._recorder = recorder
        self.default_timeout = default_timeout.total_seconds()
        self.stream_timeout = None if stream_timeout is None else stream_timeout.total_seconds()

    async def start(
        self,
        continuation: Callable[[Details, Any], Awaitable[Any]],
        details: Details,
        request: Any,
        default: float | None,
    ) -> Any:
        method: Any = details.method  # typed as text, but bytes arrive
        path = method.decode() if isinstance(method, bytes) else method
        recorded = self._recorder.start(path)
        with trace.use_span(recorded.span, end_on_exit=False, record_exception=False, set_status_on_exception=False):
            try:
                call = await continuation(_prepared(details, default), request)
            except grpc.aio.AioRpcError as error:
                recorded.finish(error.code())
                raise
            except BaseException as error:
                recorded.finish(grpc.StatusCode.UNKNOWN, type(error).__qualname__)
                raise
        # Called however the call ends: answered, failed, cancelled by us, or dropped before its stream was read out.
        call.add_done_callback(lambda done: _finish(recorded, done))
        return call


class _UnaryUnary(grpc.aio.UnaryUnaryClientInterceptor):
    def __init__(self, calls: _OutgoingCalls) -> None:
        self._calls = calls

    async def intercept_unary_unary(
        self, continuation: Callable[[Details, Any], Awaitable[Any]], client_call_details: Details, request: Any
    ) -> Any:
        return await self._calls.start(continuation, client_call_details, request, self._calls.default_timeout)


class _UnaryStream(grpc.aio.UnaryStreamClientInterceptor):
    def __init__(self, calls: _OutgoingCalls) -> None:
        self._calls = calls

    async def intercept_unary_stream(
        self, continuation: Callable[[Details, Any], Awaitable[Any]], client_call_details: Details, request: Any
    ) -> Any:
        return await self._calls.start(continuation, client_call_details, request, self._calls.stream_timeout)


class _StreamUnary(grpc.aio.StreamUnaryClientInterceptor):
    def __init__(self, calls: _OutgoingCalls) -> None:
        self._calls = calls

    async def intercept_stream_unary(
        self,
        continuation: Callable[[Details, Any], Awaitable[Any]],
        client_call_details: Details,
        request_iterator: Requests,
    ) -> Any:
        return await self._calls.start(continuation, client_call_details, request_iterator, self._calls.stream_timeout)


class _StreamStream(grpc.aio.StreamStreamClientInterceptor):
    def __init__(self, calls: _OutgoingCalls) -> None:
        self._calls = calls

    async def intercept_stream_stream(
        self,
        continuation: Callable[[Details, Any], Awaitable[Any]],
        client_call_details: Details,
        request_iterator: Requests,
    ) -> Any:
        return await self._calls.start(continuation, client_call_details, request_iterator, self._calls.stream_timeout)


def _prepared(details: Details, default: float | None) -> Details:
    timeout = default if details.timeout is None else details.timeout
    left = deadlines.remaining()
    if left is not None:
        allowed = (left - DEADLINE_MARGIN).total_seconds()
        if allowed <= 0:
            raise _no_time_left()
        timeout = allowed if timeout is None else min(timeout, allowed)
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    metadata = grpc.aio.Metadata(*(details.metadata or ()), *carrier.items())
    return Details(details.method, timeout, metadata, details.credentials, details.wait_for_ready)


def _no_time_left() -> grpc.aio.AioRpcError:
    # Sent with a deadline that has passed, the call might still be served before anybody looks at it.
    empty = grpc.aio.Metadata()
    return grpc.aio.AioRpcError(
        grpc.StatusCode.DEADLINE_EXCEEDED, empty, empty, "no time is left of the call being handled"
    )


def _finish(recorded: RecordedCall, call: grpc.aio.Call) -> None:
    recorded.finish(_code_of_done(call))


def _code_of_done(call: grpc.aio.Call) -> grpc.StatusCode:
    # A done call's code is there at once; stepping the coroutine by hand spares a task per call.
    coroutine = call.code()
    try:
        coroutine.send(None)
    except StopIteration as finished:
        code: grpc.StatusCode = finished.value
        return code
    coroutine.close()
    return grpc.StatusCode.UNKNOWN
