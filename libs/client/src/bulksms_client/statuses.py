"""Decodes a failed call: google.rpc details into the exceptions of `errors`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Protocol

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from bulksms_client import errors
from bulksms_client.calls import Call

__all__ = ["CallFailure", "decode"]

_DETAILS_KEY = "grpc-status-details-bin"
_DETAILS: tuple[type[Message], ...] = (
    error_details_pb2.ErrorInfo,
    error_details_pb2.BadRequest,
    error_details_pb2.RetryInfo,
)

_BY_CODE: dict[grpc.StatusCode, type[errors.BulkSmsError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidArgument,
    grpc.StatusCode.OUT_OF_RANGE: errors.InvalidArgument,
    grpc.StatusCode.NOT_FOUND: errors.NotFound,
    grpc.StatusCode.FAILED_PRECONDITION: errors.WrongState,
    grpc.StatusCode.ALREADY_EXISTS: errors.Conflict,
    grpc.StatusCode.ABORTED: errors.Conflict,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
    grpc.StatusCode.UNAUTHENTICATED: errors.PermissionDenied,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Overloaded,
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.CANCELLED: errors.Cancelled,
    grpc.StatusCode.UNIMPLEMENTED: errors.Unimplemented,
}

# Three kinds of error share FAILED_PRECONDITION; the HTTP equivalent, carried along, tells them apart.
_BY_HTTP_STATUS: dict[int, type[errors.BulkSmsError]] = {
    402: errors.InsufficientCredits,
    403: errors.SubscriptionInactive,
}


class CallFailure(Protocol):
    """What both kinds of gRPC error (sync and asyncio) can say."""

    def code(self) -> grpc.StatusCode: ...

    def details(self) -> str | None: ...

    def trailing_metadata(self) -> Iterable[tuple[str, str | bytes]] | None: ...


def decode(failure: CallFailure, call: Call, address: str) -> errors.BulkSmsError:
    """The exception for a failed call; it never fails itself, whatever the peer sent."""
    code = failure.code()
    info, violations, retry_after = _details(failure.trailing_metadata())
    metadata = dict(info.metadata) if info is not None else {}
    http_status = int(metadata["http_status"]) if metadata.get("http_status", "").isdecimal() else None
    kind = _BY_CODE.get(code, errors.Internal)
    if code is grpc.StatusCode.FAILED_PRECONDITION and http_status is not None:
        kind = _BY_HTTP_STATUS.get(http_status, kind)
    message = failure.details() or ""
    if info is None:  # nothing of the service's: the transport's own text, made readable
        message = _transport_message(code, message, call, address)
    failed = kind(
        message,
        reason=info.reason if info is not None else "",
        metadata=metadata,
        field_violations=violations,
        code=code,
        http_status=http_status,
        retry_after=retry_after,
    )
    if code is grpc.StatusCode.ABORTED:  # a lost race: the same request may win next time
        failed.retryable = True
    return failed


def _details(
    trailers: Iterable[tuple[str, str | bytes]] | None,
) -> tuple[error_details_pb2.ErrorInfo | None, list[errors.FieldViolation], timedelta | None]:
    info: error_details_pb2.ErrorInfo | None = None
    violations: list[errors.FieldViolation] = []
    retry_after: timedelta | None = None
    for detail in _unpacked(trailers):
        if isinstance(detail, error_details_pb2.ErrorInfo):
            info = detail
        elif isinstance(detail, error_details_pb2.BadRequest):
            violations += [errors.FieldViolation(one.field, one.description) for one in detail.field_violations]
        elif isinstance(detail, error_details_pb2.RetryInfo):
            retry_after = detail.retry_delay.ToTimedelta()
    return info, violations, retry_after


def _unpacked(trailers: Iterable[tuple[str, str | bytes]] | None) -> Iterator[Message]:
    """The details that can be read; a status garbled on the way still has its code and text."""
    packed = next((value for key, value in trailers or () if key == _DETAILS_KEY and isinstance(value, bytes)), b"")
    with suppress(DecodeError):
        for detail in status_pb2.Status.FromString(packed).details:
            for kind in _DETAILS:
                if detail.Is(kind.DESCRIPTOR):
                    yield kind.FromString(detail.value)


def _transport_message(code: grpc.StatusCode, details: str, call: Call, address: str) -> str:
    where = f"the {call.peer} service at {address}"
    # gRPC describes all its attempts; the last sentence has the cause.
    details = details.rpartition("last error: ")[2]
    if code is grpc.StatusCode.UNAVAILABLE:
        variable = f"BULKSMS_{call.peer.upper()}"
        return f"{where} cannot be reached: {details or 'no connection'}; is it running, and is {variable} right?"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return (
            f"{where} did not answer {call.method} within {call.timeout_seconds:g} s; it may have been done: "
            "repeat it with the same request id, or give it a longer timeout"
        )
    if details == "Method not found!":
        return f"{where} does not know {call.method}: is another service, or an older one, at that address?"
    return f"{call.method} failed at {where}: {details or code.name}"
