"""The one server interceptor: traces, measures, logs and bounds calls, and renders their errors."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterable, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from datetime import timedelta
from typing import Any, NoReturn

import grpc
from opentelemetry import metrics, propagate, trace
from opentelemetry.context import attach, detach

from servicekit import deadlines, errors, logs
from servicekit.errors import DomainError
from servicekit.grpc.calls import CallRecorder, RecordedCall, split_method
from servicekit.grpc.errors import abort_status, from_rpc_error

__all__ = ["ErrorTranslator", "ServerInterceptor"]

ErrorTranslator = Callable[[BaseException], DomainError | None]
Context = grpc.aio.ServicerContext[Any, Any]
Body = Callable[[], Awaitable[Any]]

_log = logs.get_logger("bulksms.servicekit.grpc")
_levels = logging.getLogger("servicekit.grpc")
_PROBE = "/grpc.health.v1.Health/Check"
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}
_RETRY_AFTER = timedelta(milliseconds=500)
# What generated base classes raise for a method nobody has overridden.
_NOT_OVERRIDDEN = "Method not implemented!"


class ServerInterceptor(grpc.GenericRpcHandler):
    """Put around every handler of every kind; `translators` turn library errors into domain errors, first one wins.

    To a server it is the one handler there is, to servicers it is the server they are added to. As one of grpc.aio's
    interceptors it would be a coroutine awaited for each call before its handler is: 7 % of what an empty call costs.
    """

    def __init__(
        self,
        *,
        max_concurrent_rpcs: int = 1000,
        endless_methods: Collection[str] = (),
        translators: Sequence[ErrorTranslator] = (),
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        self._recorder = CallRecorder("server", tracer_provider, meter_provider)
        self._max_concurrent_rpcs = max_concurrent_rpcs
        self._running = 0
        self._endless_methods = {"/" + method.removeprefix("/") for method in endless_methods}
        self._endless_tasks: set[asyncio.Task[Any]] = set()
        self._stopping = False
        self._translators = translators
        self._trace_fields = frozenset(propagate.get_global_textmap().fields)
        self._finders: list[grpc.GenericRpcHandler] = []
        self._offered: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}  # by path; only what servicers have gets in

    def end_endless_calls(self) -> None:
        """On shutdown: calls of the endless methods, present and future, end with UNAVAILABLE, SHUTTING_DOWN."""
        self._stopping = True
        for task in self._endless_tasks:
            task.cancel()

    def add_registered_method_handlers(self, service_name: str, method_handlers: Mapping[str, Any]) -> None:
        """Called by a servicer's `add_…_to_server`, as if this were the server."""
        for method, handler in method_handlers.items():
            self._offer(f"/{service_name}/{method}", handler)

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Called by the same, with what finds handlers by their paths."""
        self._finders.extend(generic_rpc_handlers)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        """Called by gRPC for each call: its handler, wrapped."""
        path = handler_call_details.method
        offered = self._offered.get(path)
        if offered is not None:
            return offered
        for finder in self._finders:
            handler = finder.service(handler_call_details)
            if handler is not None:
                return self._offer(path, handler)
        return grpc.stream_stream_rpc_method_handler(_no_such_method(path))

    def _offer(self, path: str, handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
        # A probe comes every few seconds, for ever: it is neither traced nor logged.
        self._offered[path] = handler if path == _PROBE else self._wrap(path, handler)
        return self._offered[path]

    def _wrap(self, path: str, handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
        make, behaviour = _parts(handler)
        serve = self._streaming(path, behaviour) if handler.response_streaming else self._unary(path, behaviour)
        return make(serve, handler.request_deserializer, handler.response_serializer)

    def _unary(self, path: str, behaviour: Callable[..., Any]) -> Callable[[Any, Context], Awaitable[Any]]:
        if inspect.iscoroutinefunction(behaviour):  # so are all of ours

            async def serve(request: Any, context: Context) -> Any:
                return await self._serve(path, context, lambda: behaviour(request, context))

            return serve

        async def serve_either(request: Any, context: Context) -> Any:
            async def body() -> Any:
                response = behaviour(request, context)
                return await response if inspect.isawaitable(response) else response

            return await self._serve(path, context, body)

        return serve_either

    def _streaming(self, path: str, behaviour: Callable[..., Any]) -> Callable[[Any, Context], Awaitable[None]]:
        # Always the writer style: a cancelled call then raises inside the handler's generator and closes it at once,
        # in this task. An abandoned generator would be closed by the garbage collector, its span with it.
        async def serve(request: Any, context: Context) -> None:
            async def body() -> None:
                responses = behaviour(request, context)
                if inspect.isawaitable(responses):
                    await responses
                elif inspect.isasyncgen(responses):
                    async with aclosing(responses):
                        await _write_all(responses, context)
                else:
                    await _write_all(responses, context)

            await self._serve(path, context, body)

        return serve

    async def _serve(self, path: str, context: Context, body: Body) -> Any:
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        is_traced = not self._trace_fields.isdisjoint(metadata)
        call = self._recorder.start(path, propagate.extract(metadata) if is_traced else None)
        time_left = context.time_remaining()
        limit = None if time_left is None else timedelta(seconds=time_left)
        code, error, cause = grpc.StatusCode.UNKNOWN, None, None
        # Not trace.use_span: its generator took a sixth of the time of all that is done here for a call.
        token = attach(trace.set_span_in_context(call.span))
        try:
            with deadlines.within(limit):
                response = await self._admitted(path, body)
            code = _code_of(context)
        except grpc.aio.AbortError:  # the handler has aborted by itself
            code = _code_of(context)
            raise
        except asyncio.CancelledError:
            code = _why_cancelled(context)
            raise
        except Exception as caught:  # noqa: BLE001 - the boundary of every handler
            error, cause = self._domain_error(caught, call), caught
            code = grpc.StatusCode[error.category.rpc_code]
            await _abort(context, error)
        else:
            return response
        finally:
            call.finish(code, error.reason if error else "")
            _access_log(call, code, error, cause)
            detach(token)

    async def _admitted(self, path: str, body: Body) -> Any:
        if self._running >= self._max_concurrent_rpcs:
            raise errors.overloaded(
                "TOO_MANY_CALLS",
                f"This server already answers {self._max_concurrent_rpcs} calls at once: try again in a moment.",
                retry_after=_RETRY_AFTER,
            )
        self._running += 1
        try:
            return await (self._endless(body) if path in self._endless_methods else body())
        finally:
            self._running -= 1

    async def _endless(self, body: Body) -> Any:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("handlers run in tasks")
        self._endless_tasks.add(task)
        try:
            if self._stopping:
                raise _shutting_down()
            return await body()
        except asyncio.CancelledError:
            if self._stopping:
                task.uncancel()
                raise _shutting_down() from None
            raise
        finally:
            self._endless_tasks.discard(task)

    def _domain_error(self, caught: Exception, call: RecordedCall) -> DomainError:
        if isinstance(caught, DomainError):
            return caught
        if isinstance(caught, grpc.aio.AioRpcError):
            return from_rpc_error(caught)
        if isinstance(caught, NotImplementedError) and str(caught) == _NOT_OVERRIDDEN:
            name = f"{call.service.rpartition('.')[2]}.{call.method}"
            return errors.unimplemented("NOT_BUILT", f"{name} is not built yet.", method=name)
        for translate in self._translators:
            if (translated := translate(caught)) is not None:
                return translated
        if isinstance(caught, TimeoutError):
            return errors.unavailable("TIMED_OUT", "Something needed for this call did not answer in time: try again.")
        trace_id = trace.format_trace_id(call.span.get_span_context().trace_id)
        return errors.internal(
            "INTERNAL", f"Internal error; its details are in the log under trace id {trace_id}.", trace_id=trace_id
        )


def _parts(handler: Any) -> tuple[Callable[..., grpc.RpcMethodHandler[Any, Any]], Callable[..., Any]]:
    match handler.request_streaming, handler.response_streaming:
        case False, False:
            return grpc.unary_unary_rpc_method_handler, handler.unary_unary
        case False, True:
            return grpc.unary_stream_rpc_method_handler, handler.unary_stream
        case True, False:
            return grpc.stream_unary_rpc_method_handler, handler.stream_unary
        case _:
            return grpc.stream_stream_rpc_method_handler, handler.stream_stream


def _no_such_method(path: str) -> Callable[[Any, Context], Awaitable[None]]:
    async def refuse(_requests: Any, context: Context) -> None:
        service, method = split_method(path)
        await _abort(context, errors.unimplemented("NO_SUCH_METHOD", f"This server offers no {service}/{method}."))

    return refuse


async def _write_all(responses: AsyncIterable[Any], context: Context) -> None:
    async for response in responses:
        await context.write(response)


async def _abort(context: Context, error: DomainError) -> NoReturn:
    await context.abort_with_status(abort_status(error))


def _code_of(context: Context) -> grpc.StatusCode:
    code: Any = context.code()  # a number, or a StatusCode, or 0 or None while nobody has set it
    return code if isinstance(code, grpc.StatusCode) else _CODES.get(code or 0, grpc.StatusCode.UNKNOWN)


def _why_cancelled(context: Context) -> grpc.StatusCode:
    time_left = context.time_remaining()
    expired = time_left is not None and time_left <= 0
    return grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED


def _shutting_down() -> DomainError:
    return errors.unavailable("SHUTTING_DOWN", "This server is stopping: call again.", retry_after=_RETRY_AFTER)


def _access_log(call: RecordedCall, code: grpc.StatusCode, error: DomainError | None, cause: Exception | None) -> None:
    # A line a call costs 130 µs, a third of what a small call costs; spans and the duration metric say the same. Even
    # to have structlog find out that a line is not wanted takes a quarter of all that is done here for a call.
    if code is grpc.StatusCode.OK and not _levels.isEnabledFor(logging.DEBUG):
        return
    fields: dict[str, Any] = {
        "rpc_service": call.service,
        "rpc_method": call.method,
        "code": code.name,
        "duration_ms": round(call.seconds * 1000, 2),
    }
    if error is not None:
        fields["reason"] = error.reason
    if code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN):
        _log.error("call failed", exc_info=cause, **fields)
    elif code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
        _log.warning("call failed", **fields)
    elif code is grpc.StatusCode.OK:
        _log.debug("call", **fields)
    else:
        _log.info("call refused", **fields)
