"""Server and client interceptors, over a real connection, with all four kinds of call."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from devstack.eventually import eventually
from servicekit import deadlines, errors
from servicekit.errors import Category, DomainError, FieldViolation
from servicekit.grpc.client import open_channel
from servicekit.grpc.errors import domain_errors, from_rpc_error
from servicekit.grpc.server import GrpcServer, build_server
from servicekit.settings import Endpoint, ServiceSettings, SettingsError

SERVICE = "test.Echo"
PATIENCE = 5.0


class EchoServicer:
    """Does what the request's text tells it to do."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.closed = asyncio.Event()
        self.release = asyncio.Event()
        self.seen_timeouts: list[timedelta | None] = []
        self.peer: grpc.aio.Channel | None = None

    async def say(self, request: StringValue, context: grpc.aio.ServicerContext) -> StringValue:  # noqa: C901 - a table
        self.entered.set()
        self.seen_timeouts.append(deadlines.remaining())
        match request.value:
            case "refuse":
                raise errors.payment_required("TOO_POOR", "Ten are needed, δύο are there.", needed=10)
            case "invalid":
                raise errors.invalid_argument("BAD", "Wrong.", violations=[FieldViolation("a.b", "must not be empty")])
            case "busy":
                raise errors.overloaded("BUSY", "Later.", retry_after=timedelta(milliseconds=1500))
            case "crash":
                raise KeyError("secret of the implementation")
            case "timeout":
                raise TimeoutError
            case "abort":
                await context.abort(grpc.StatusCode.OUT_OF_RANGE, "by hand")
            case "code":
                context.set_code(grpc.StatusCode.DATA_LOSS)
            case "wait":
                try:
                    await self.release.wait()
                except asyncio.CancelledError:
                    self.cancelled.set()
                    raise
            case "relay":
                assert self.peer is not None
                await say(self.peer, "refuse", timeout=60)
            case "relay-slow":
                assert self.peer is not None
                await say(self.peer, "wait", timeout=60)
        return StringValue(value=request.value)

    async def list(self, request: StringValue, _context: grpc.aio.ServicerContext) -> AsyncIterator[StringValue]:
        try:
            for number in range(3):
                yield StringValue(value=str(number))
            self.entered.set()
            if request.value == "refuse":
                raise errors.not_found("GONE", "It is gone.")
            if request.value == "wait":
                await self.release.wait()
        finally:
            self.closed.set()

    async def collect(self, requests: AsyncIterator[StringValue], _context: grpc.aio.ServicerContext) -> StringValue:
        parts = [request.value async for request in requests]
        if parts == ["refuse"]:
            raise errors.conflict("RACE", "Lost a race.")
        return StringValue(value="".join(parts))

    async def chat(self, requests: AsyncIterator[StringValue], context: grpc.aio.ServicerContext) -> None:
        async for request in requests:
            await context.write(request)
        raise errors.wrong_state("OVER", "All is said.")

    def missing(self, _request: StringValue, context: grpc.aio.ServicerContext) -> StringValue:
        # As generated base classes have it.
        context.set_code(grpc.StatusCode.UNIMPLEMENTED)
        context.set_details("Method not implemented!")
        raise NotImplementedError("Method not implemented!")


def add_to_server(servicer: EchoServicer, server: grpc.aio.Server) -> None:
    codec = {"request_deserializer": StringValue.FromString, "response_serializer": StringValue.SerializeToString}
    handlers = {
        "Say": grpc.unary_unary_rpc_method_handler(servicer.say, **codec),
        "List": grpc.unary_stream_rpc_method_handler(servicer.list, **codec),
        "Watch": grpc.unary_stream_rpc_method_handler(servicer.list, **codec),
        "Collect": grpc.stream_unary_rpc_method_handler(servicer.collect, **codec),
        "Chat": grpc.stream_stream_rpc_method_handler(servicer.chat, **codec),
        "Missing": grpc.unary_unary_rpc_method_handler(servicer.missing, **codec),
    }
    server.add_registered_method_handlers(SERVICE, handlers)


CODEC = {"request_serializer": StringValue.SerializeToString, "response_deserializer": StringValue.FromString}


def say(channel: grpc.aio.Channel, text: str, *, timeout: float | None = None) -> grpc.aio.UnaryUnaryCall:
    return channel.unary_unary(f"/{SERVICE}/Say", **CODEC)(StringValue(value=text), timeout=timeout)


@dataclass
class Rig:
    """A server, a channel to it, and what both recorded."""

    servicer: EchoServicer
    server: GrpcServer
    channel: grpc.aio.Channel
    exporter: InMemorySpanExporter
    reader: InMemoryMetricReader
    tracer_provider: TracerProvider
    meter_provider: MeterProvider
    channels: list[grpc.aio.Channel] = field(default_factory=list)

    def open(self, **options: object) -> grpc.aio.Channel:
        channel = open_channel(
            self.server.address,
            tracer_provider=self.tracer_provider,
            meter_provider=self.meter_provider,
            **options,
        )
        self.channels.append(channel)
        return channel

    async def spans(self, kind: SpanKind, count: int = 1) -> list[ReadableSpan]:
        def found() -> list[ReadableSpan]:
            return [span for span in self.exporter.get_finished_spans() if span.kind is kind]

        await eventually(lambda: len(found()) >= count, 10)
        return found()


@asynccontextmanager
async def rigged(**settings: object) -> AsyncIterator[Rig]:
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers, meters = TracerProvider(), MeterProvider([reader])
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    servicer = EchoServicer()
    values = {"grpc_listen": Endpoint("127.0.0.1", 0), "shutdown_grace_seconds": 2, **settings}
    server = build_server(
        ServiceSettings(**values),
        [(add_to_server, servicer, SERVICE)],
        endless_methods=[f"{SERVICE}/Watch"],
        tracer_provider=tracers,
        meter_provider=meters,
    )
    await server.start()
    rig = Rig(servicer, server, None, exporter, reader, tracers, meters)
    rig.channel = rig.open(idempotent_methods=[f"{SERVICE}/Say"])
    servicer.peer = rig.open()
    try:
        yield rig
    finally:
        for channel in rig.channels:
            await channel.close()
        servicer.release.set()
        await server.stop()
        tracers.shutdown()
        meters.shutdown()


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    async with rigged() as rig:
        yield rig


def code_of(span: ReadableSpan) -> object:
    return (span.attributes or {})["rpc.grpc.status_code"]


async def test_a_call_leaves_a_client_span_and_a_server_span_below_it(rig: Rig) -> None:
    assert (await say(rig.channel, "hello")).value == "hello"
    (server,) = await rig.spans(SpanKind.SERVER)
    (client,) = await rig.spans(SpanKind.CLIENT)
    assert server.parent is not None
    assert server.parent.span_id == client.context.span_id
    assert server.name == client.name == "test.Echo/Say"
    assert dict(server.attributes or {}) == {
        "rpc.system": "grpc",
        "rpc.service": "test.Echo",
        "rpc.method": "Say",
        "rpc.grpc.status_code": 0,
    }


async def test_durations_are_measured_at_both_ends(rig: Rig) -> None:
    await say(rig.channel, "hello")
    await rig.spans(SpanKind.SERVER)
    metrics = json.loads(rig.reader.get_metrics_data().to_json())
    found = {
        metric["name"]: metric["data"]["data_points"]
        for resource in metrics["resource_metrics"]
        for scope in resource["scope_metrics"]
        for metric in scope["metrics"]
    }
    assert set(found) == {"rpc.server.call.duration", "rpc.client.call.duration"}
    assert all(points[0]["attributes"]["rpc.method"] == "Say" for points in found.values())


async def test_an_error_crosses_the_wire_with_reason_metadata_and_http_status(rig: Rig) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await say(rig.channel, "refuse")
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == "Ten are needed, δύο are there."
    info = error_details_pb2.ErrorInfo()
    assert rpc_status.from_call(caught.value).details[0].Unpack(info)
    assert (info.reason, info.domain) == ("TOO_POOR", "bulksms")
    assert dict(info.metadata) == {"needed": "10", "http_status": "402"}
    error = from_rpc_error(caught.value)
    assert (error.category, error.reason, error.metadata) == (
        Category.PAYMENT_REQUIRED,
        "TOO_POOR",
        {"needed": "10"},
    )
    assert not error.retryable


async def test_field_violations_and_retry_delays_survive(rig: Rig) -> None:
    with pytest.raises(DomainError) as invalid, domain_errors("echo"):
        await say(rig.channel, "invalid")
    assert invalid.value.field_violations == (FieldViolation("a.b", "must not be empty"),)
    with pytest.raises(DomainError) as busy, domain_errors("echo"):
        await say(rig.channel, "busy")
    assert busy.value.retry_after == timedelta(milliseconds=1500)
    assert busy.value.retryable


async def test_an_error_a_handler_lets_through_from_a_peer_keeps_its_reason(rig: Rig) -> None:
    with pytest.raises(DomainError) as caught, domain_errors("echo"):
        await say(rig.channel, "relay")
    assert (caught.value.category, caught.value.reason) == (Category.PAYMENT_REQUIRED, "TOO_POOR")
    assert caught.value.metadata == {"needed": "10"}


async def test_an_unexpected_exception_says_nothing_but_the_trace_id(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await say(rig.channel, "crash")
    (server,) = await rig.spans(SpanKind.SERVER)
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert f"{server.context.trace_id:032x}" in (caught.value.details() or "")
    assert "secret" not in (caught.value.details() or "")
    assert server.status.status_code is StatusCode.ERROR


async def test_a_refusal_is_an_error_to_the_client_and_none_of_the_server(rig: Rig) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await say(rig.channel, "refuse")
    (server,) = await rig.spans(SpanKind.SERVER)
    (client,) = await rig.spans(SpanKind.CLIENT)
    assert (code_of(server), server.status.status_code) == (9, StatusCode.UNSET)
    assert (code_of(client), client.status.status_code) == (9, StatusCode.ERROR)
    assert (server.attributes or {})["error.type"] == "TOO_POOR"


@pytest.mark.parametrize(
    ("request_text", "code"),
    [
        ("abort", grpc.StatusCode.OUT_OF_RANGE),
        ("code", grpc.StatusCode.DATA_LOSS),
        ("timeout", grpc.StatusCode.UNAVAILABLE),
    ],
)
async def test_codes_set_by_hand_are_recorded_as_sent(rig: Rig, request_text: str, code: grpc.StatusCode) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await say(rig.open(), request_text)  # not declared idempotent: UNAVAILABLE is not tried again
    (server,) = await rig.spans(SpanKind.SERVER)
    assert caught.value.code() is code
    assert code_of(server) == code.value[0]


async def test_a_method_nobody_has_built_says_so_by_name(rig: Rig) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await rig.channel.unary_unary("/test.Echo/Missing", **CODEC)(StringValue())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert caught.value.details() == "Echo.Missing is not built yet."


async def test_a_method_that_does_not_exist_says_so_by_name(rig: Rig) -> None:
    for path in ("/test.Echo/Nothing", "/nobody.Nowhere/Nothing"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await rig.channel.unary_unary(path, **CODEC)(StringValue())
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert path.removeprefix("/") in (caught.value.details() or "")


async def test_streams_are_recorded_to_their_end(rig: Rig) -> None:
    replies = rig.channel.unary_stream("/test.Echo/List", **CODEC)(StringValue())
    assert [reply.value async for reply in replies] == ["0", "1", "2"]

    async def requests() -> AsyncIterator[StringValue]:
        for part in "abc":
            yield StringValue(value=part)

    assert (await rig.channel.stream_unary("/test.Echo/Collect", **CODEC)(requests())).value == "abc"
    written = rig.channel.stream_unary("/test.Echo/Collect", **CODEC)()
    await written.write(StringValue(value="x"))
    await written.write(StringValue(value="y"))
    await written.done_writing()
    assert (await written).value == "xy"
    assert [code_of(span) for span in await rig.spans(SpanKind.SERVER, 3)] == [0, 0, 0]
    assert [code_of(span) for span in await rig.spans(SpanKind.CLIENT, 3)] == [0, 0, 0]


async def test_a_stream_that_fails_half_way_is_recorded_as_failed(rig: Rig) -> None:
    received: list[StringValue] = []
    with pytest.raises(DomainError) as caught, domain_errors("echo"):
        await _read_all(rig.channel.unary_stream("/test.Echo/List", **CODEC)(StringValue(value="refuse")), received)
    assert [reply.value for reply in received] == ["0", "1", "2"]
    assert caught.value.reason == "GONE"

    async def requests() -> AsyncIterator[StringValue]:
        yield StringValue(value="refuse")

    with pytest.raises(DomainError) as lost, domain_errors("echo"):
        await rig.channel.stream_unary("/test.Echo/Collect", **CODEC)(requests())
    assert lost.value.reason == "RACE"
    chat = rig.channel.stream_stream("/test.Echo/Chat", **CODEC)(requests())
    with pytest.raises(DomainError) as over, domain_errors("echo"):
        assert [reply.value async for reply in chat] == ["never compared"]
    assert over.value.reason == "OVER"
    assert [code_of(span) for span in await rig.spans(SpanKind.SERVER, 3)] == [5, 10, 9]
    assert [code_of(span) for span in await rig.spans(SpanKind.CLIENT, 3)] == [5, 10, 9]


async def test_a_cancelled_call_is_cancelled_at_the_server_and_recorded_at_both_ends(rig: Rig) -> None:
    call = asyncio.ensure_future(_await(say(rig.channel, "wait")))
    async with asyncio.timeout(PATIENCE):
        await rig.servicer.entered.wait()
        call.cancel()
        await rig.servicer.cancelled.wait()
    with pytest.raises(asyncio.CancelledError):
        await call
    (server,) = await rig.spans(SpanKind.SERVER)
    (client,) = await rig.spans(SpanKind.CLIENT)
    assert code_of(server) == code_of(client) == 1


async def test_cancelling_passes_through_a_service_to_its_peer(rig: Rig) -> None:
    call = asyncio.ensure_future(_await(say(rig.channel, "relay-slow")))
    await eventually(lambda: len(rig.servicer.seen_timeouts) == 2, 10)
    call.cancel()
    await asyncio.wait_for(rig.servicer.cancelled.wait(), PATIENCE)
    assert [code_of(span) for span in await rig.spans(SpanKind.SERVER, 2)] == [1, 1]
    assert [code_of(span) for span in await rig.spans(SpanKind.CLIENT, 2)] == [1, 1]


async def test_a_stream_left_half_read_closes_the_handler_s_generator(rig: Rig) -> None:
    stream = rig.channel.unary_stream("/test.Echo/List", **CODEC)(StringValue(value="wait"))
    assert (await stream.read()).value == "0"
    stream.cancel()
    async with asyncio.timeout(PATIENCE):
        await rig.servicer.closed.wait()
    (server,) = await rig.spans(SpanKind.SERVER)
    (client,) = await rig.spans(SpanKind.CLIENT)
    assert code_of(server) == code_of(client) == 1


async def test_a_passed_deadline_is_recorded_as_one(rig: Rig) -> None:
    with pytest.raises(DomainError) as caught, domain_errors("echo"):
        await say(rig.channel, "wait", timeout=0.2)
    assert caught.value.category is Category.DEADLINE_EXCEEDED
    (server,) = await rig.spans(SpanKind.SERVER)
    (client,) = await rig.spans(SpanKind.CLIENT)
    assert code_of(server) == code_of(client) == 4


async def test_calls_without_a_timeout_get_the_default_and_streams_their_own(rig: Rig) -> None:
    channel = rig.open(default_timeout=timedelta(seconds=7), stream_timeout=None)
    await say(channel, "hello")
    (seen,) = rig.servicer.seen_timeouts
    assert seen is not None
    # gRPC rounds up what it sends.
    assert timedelta(seconds=6) < seen < timedelta(seconds=7.1)
    stream = channel.unary_stream("/test.Echo/List", **CODEC)(StringValue())
    assert len([reply async for reply in stream]) == 3


async def test_an_outgoing_call_never_outlives_the_call_it_serves(rig: Rig) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await say(rig.channel, "relay-slow", timeout=0.5)
    async with asyncio.timeout(PATIENCE):
        await rig.servicer.cancelled.wait()
    outer, inner = rig.servicer.seen_timeouts
    assert outer is not None
    assert inner is not None
    assert inner < outer - timedelta(milliseconds=40)


async def test_a_call_with_no_time_left_fails_without_being_sent(rig: Rig) -> None:
    with deadlines.within(timedelta(milliseconds=-1)), pytest.raises(grpc.aio.AioRpcError) as caught:
        await say(rig.channel, "hello")
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_calls_beyond_the_bound_are_refused_with_a_delay() -> None:
    async with rigged(grpc_max_concurrent_rpcs=1) as rig:
        first = asyncio.ensure_future(_await(say(rig.channel, "wait")))
        await asyncio.wait_for(rig.servicer.entered.wait(), PATIENCE)
        with pytest.raises(DomainError) as caught, domain_errors("echo"):
            await say(rig.channel, "hello")
        assert (caught.value.category, caught.value.reason) == (Category.OVERLOADED, "TOO_MANY_CALLS")
        assert caught.value.retry_after == timedelta(milliseconds=500)
        health = health_pb2_grpc.HealthStub(rig.channel)
        assert (await health.Check(health_pb2.HealthCheckRequest())).status == 1
        rig.servicer.release.set()
        assert (await first).value == "wait"
        assert (await say(rig.channel, "hello")).value == "hello"


async def test_health_is_known_per_service_and_turns_before_the_server_stops(rig: Rig) -> None:
    health = health_pb2_grpc.HealthStub(rig.channel)
    watch = health.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    unknown = health.Check(health_pb2.HealthCheckRequest(service="nobody"))
    with pytest.raises(grpc.aio.AioRpcError):
        await unknown
    call = asyncio.ensure_future(_await(say(rig.channel, "wait")))
    await asyncio.wait_for(rig.servicer.entered.wait(), PATIENCE)
    stopping = asyncio.ensure_future(rig.server.stop())
    rest: list[health_pb2.HealthCheckResponse] = []
    with pytest.raises(DomainError) as ended, domain_errors("echo"):
        await asyncio.wait_for(_read_all(watch, rest), PATIENCE)
    # The stream may end before the change of health was written to it.
    assert [reply.status for reply in rest] in ([health_pb2.HealthCheckResponse.NOT_SERVING], [])
    assert ended.value.reason == "SHUTTING_DOWN"
    assert not stopping.done()
    rig.servicer.release.set()
    assert (await call).value == "wait"
    await asyncio.wait_for(stopping, PATIENCE)


async def test_endless_streams_end_at_once_when_the_server_stops(rig: Rig) -> None:
    watch = rig.channel.unary_stream("/test.Echo/Watch", **CODEC)(StringValue(value="wait"))
    assert (await watch.read()).value == "0"
    await asyncio.wait_for(rig.servicer.entered.wait(), PATIENCE)
    async with asyncio.timeout(1.5):  # the grace is two seconds
        await rig.server.stop()
    with pytest.raises(DomainError) as caught, domain_errors("echo"):
        await _read_all(watch, [])
    assert (caught.value.category, caught.value.reason) == (Category.UNAVAILABLE, "SHUTTING_DOWN")


async def test_services_can_be_listed_by_reflection(rig: Rig) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(rig.channel)

    async def requests() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    names = [
        s.name async for reply in stub.ServerReflectionInfo(requests()) for s in reply.list_services_response.service
    ]
    assert SERVICE in names


async def test_a_port_that_is_taken_is_named_with_its_variable(rig: Rig) -> None:
    settings = ServiceSettings(grpc_listen=Endpoint("127.0.0.1", rig.server.port))
    second = build_server(settings, [])
    with pytest.raises(SettingsError, match="GRPC_LISTEN"):
        await second.start()
    await second.stop()


async def test_a_restarted_peer_is_found_within_a_second_or_so(rig: Rig) -> None:
    assert (await say(rig.channel, "hello")).value == "hello"
    address = Endpoint("127.0.0.1", rig.server.port)
    await rig.server.stop()
    channel = rig.open()
    with pytest.raises(DomainError) as caught, domain_errors("echo"):
        await say(channel, "hello", timeout=2)
    assert (caught.value.category, caught.value.reason) == (Category.UNAVAILABLE, "PEER_UNAVAILABLE")
    assert "127.0.0.1" not in caught.value.message
    second = build_server(ServiceSettings(grpc_listen=address), [(add_to_server, EchoServicer(), SERVICE)])
    call = asyncio.ensure_future(_await(say(rig.channel, "again", timeout=5)))  # declared idempotent
    await second.start()
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        assert (await call).value == "again"
        assert loop.time() - began < 2.5
    finally:
        await second.stop()


def test_an_error_with_very_much_to_say_still_fits_into_the_metadata() -> None:
    from servicekit.grpc.errors import to_status

    violations = [FieldViolation(f"recipients[{n}].name", "πρέπει να υπάρχει " * 5) for n in range(1000)]
    status = to_status(errors.invalid_argument("BAD", "μ" * 10_000, violations=violations))
    assert status.ByteSize() < 5000
    request = error_details_pb2.BadRequest()
    assert status.details[-1].Unpack(request)
    assert 1 <= len(request.field_violations) < 1000


async def _await(call: grpc.aio.UnaryUnaryCall) -> StringValue:
    return await call


async def _read_all(stream: AsyncIterator[object], into: list) -> None:
    async for reply in stream:
        into.append(reply)  # noqa: PERF401 - what came before an error is wanted, too
