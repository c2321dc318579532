"""Calls as data: what a request means on the wire, found from the contract's own descriptors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf.message import Message

if TYPE_CHECKING:
    from google._upb._message import MethodDescriptor as UpbMethodDescriptor
    from google.protobuf.descriptor import MethodDescriptor

__all__ = ["PEERS", "Call", "call_for"]

PEERS = ("campaign", "ledger", "dispatcher")

# An import takes as long as the file; a single message waits for the provider's response. All others are quick.
_OWN_TIMEOUTS = {"ImportContacts": 900.0, "SendMessage": 60.0, "RefreshMessageStatus": 30.0}


@dataclass(frozen=True, slots=True)
class Call:
    """One call about to be made: the peer it goes to, its path, and how long it may take."""

    peer: str
    method: str
    path: str
    timeout_seconds: float


def call_for(
    request_type: type[Message], response_type: type[Message], timeout: float | None, default_timeout: float
) -> Call:
    """The call that takes `request_type`. Every RPC of the contract has a request type of its own.

    Raises TypeError when the contract answers with something else than `response_type`: a fault of this library.
    """
    method = _method_taking(request_type)
    if method.output_type.full_name != response_type.DESCRIPTOR.full_name:
        raise TypeError(f"{method.full_name} answers with {method.output_type.name}, not {response_type.__name__}")
    service = method.containing_service
    return Call(
        peer=service.file.package.split(".")[1],
        method=f"{service.name}.{method.name}",
        path=f"/{service.full_name}/{method.name}",
        timeout_seconds=_OWN_TIMEOUTS.get(method.name, default_timeout) if timeout is None else timeout,
    )


def _method_taking(request_type: type[Message]) -> MethodDescriptor | UpbMethodDescriptor:
    request = request_type.DESCRIPTOR
    name = request.name.removesuffix("Request")
    for service in request.file.services_by_name.values():
        method = service.methods_by_name.get(name)
        if method is not None and method.input_type.full_name == request.full_name:
            return method
    raise TypeError(f"no RPC in {request.file.name} takes {request.name}")
