"""Every RPC of the contract, called over the network with nothing and with nonsense: always a clear response."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor, FileDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from bulksms.campaign.v1 import campaign_pb2, contacts_pb2, results_pb2
from bulksms.dispatcher.v1 import dispatch_pb2, messages_pb2, queue_pb2
from bulksms.ledger.v1 import ledger_pb2
from devstack.stack import Stack

FILES: dict[str, tuple[FileDescriptor, ...]] = {
    "campaign": (campaign_pb2.DESCRIPTOR, contacts_pb2.DESCRIPTOR, results_pb2.DESCRIPTOR),
    "dispatcher": (dispatch_pb2.DESCRIPTOR, messages_pb2.DESCRIPTOR, queue_pb2.DESCRIPTOR),
    "ledger": (ledger_pb2.DESCRIPTOR,),
}
METHODS = [
    pytest.param(peer, method, id=method.full_name)
    for peer, files in FILES.items()
    for file in files
    for service in file.services_by_name.values()
    for method in service.methods
]
CLEAR = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,
}
# Strings no service may choke on: too long, not text for PostgreSQL, hostile, not what the field is for.
NONSENSE = ["\x00", "x" * 100_000, "'; DROP TABLE campaigns; --", "٣", "../../etc/passwd", "-1", "{{{{", "\ud7ff"]
NONSENSICAL: dict[int, object] = {
    FieldDescriptor.CPPTYPE_BOOL: True,
    FieldDescriptor.CPPTYPE_DOUBLE: float("nan"),
    FieldDescriptor.CPPTYPE_ENUM: 2**31 - 1,
    FieldDescriptor.CPPTYPE_INT32: 2**31 - 1,
    FieldDescriptor.CPPTYPE_INT64: -(2**63),
    FieldDescriptor.CPPTYPE_UINT64: 2**64 - 1,
}


@pytest.mark.parametrize(("peer", "method"), METHODS)
def test_an_rpc_responds_clearly_to_nothing_and_to_nonsense(stack: Stack, peer: str, method: MethodDescriptor) -> None:
    request_type = GetMessageClass(method.input_type)
    with grpc.insecure_channel(stack.address(peer)) as channel:
        for request in (request_type(), *_nonsense(request_type)):
            code, details = _call(channel, method, request)
            assert code in CLEAR, f"{code}: {details}"
            assert code is grpc.StatusCode.OK or len(details) > 15, "says what is wrong"


@pytest.mark.parametrize("peer", ["campaign", "dispatcher", "ledger", "dlr-gateway"])
def test_every_service_has_health_and_reflection(stack: Stack, peer: str) -> None:
    with grpc.insecure_channel(stack.address(peer)) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        response = health.Check(health_pb2.HealthCheckRequest(), timeout=5)
        assert response.status == health_pb2.HealthCheckResponse.SERVING
        listed = set(ProtoReflectionDescriptorDatabase(channel).get_services())
        ours = {service.full_name for file in FILES.get(peer, ()) for service in file.services_by_name.values()}
        assert listed >= ours | {"grpc.health.v1.Health"}
        for name in ours:
            response = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
            assert response.status == health_pb2.HealthCheckResponse.SERVING


def _call(channel: grpc.Channel, method: MethodDescriptor, request: Message) -> tuple[grpc.StatusCode, str]:
    path = f"/{method.containing_service.full_name}/{method.name}"
    write: Callable[[Message], bytes] = type(request).SerializeToString
    read: Callable[[bytes], Message] = GetMessageClass(method.output_type).FromString
    try:
        if method.client_streaming:
            channel.stream_unary(path, write, read)(iter([request]), timeout=20)
        elif method.server_streaming:
            next(iter(channel.unary_stream(path, write, read)(request, timeout=20)), None)
        else:
            channel.unary_unary(path, write, read)(request, timeout=20)
    except grpc.RpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, ""


def _nonsense(request_type: type[Message]) -> Iterator[Message]:
    """Requests with every field set to something it is not for."""
    for text in NONSENSE:
        request = request_type()
        _fill(request, text)
        yield request


def _fill(message: Message, text: str, depth: int = 0) -> None:
    for field in message.DESCRIPTOR.fields:
        if field.message_type is not None:
            if depth < 3:
                child = getattr(message, field.name)
                _fill(child.add() if field.is_repeated else child, text, depth + 1)
                if not field.is_repeated:
                    child.SetInParent()
            continue
        value = text.encode() if field.type == FieldDescriptor.TYPE_BYTES else NONSENSICAL.get(field.cpp_type, text)
        if field.is_repeated:
            getattr(message, field.name).append(value)
        else:
            setattr(message, field.name, value)
