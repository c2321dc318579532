"""Domain errors as google.rpc.Status and back, so that reason and metadata survive every hop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import grpc
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from servicekit.errors import Category, DomainError, FieldViolation

__all__ = ["ERROR_DOMAIN", "abort_status", "domain_errors", "from_rpc_error", "to_status"]

ERROR_DOMAIN = "bulksms"
HTTP_STATUS = "http_status"

# The status travels in the trailing metadata, which gRPC bounds to 8 KiB by default; a status over it would arrive
# as an unreadable RESOURCE_EXHAUSTED. Greek letters count six bytes in the percent-encoded copy of the message.
_MAX_MESSAGE_CHARACTERS = 500
_MAX_STATUS_BYTES = 3072

_CATEGORY_BY_CODE: dict[str, Category] = {
    # Codes only libraries and proxies use, folded into the nearest of ours.
    "OUT_OF_RANGE": Category.INVALID_ARGUMENT,
    "UNKNOWN": Category.INTERNAL,
    "DATA_LOSS": Category.INTERNAL,
    **{category.rpc_code: category for category in reversed(Category)},
}
_CATEGORY = {(category.rpc_code, str(category.http_status)): category for category in Category}


def to_status(error: DomainError) -> status_pb2.Status:
    """ErrorInfo always, BadRequest and RetryInfo where the error has them; bounded in size."""
    message = error.message
    if len(message) > _MAX_MESSAGE_CHARACTERS:
        message = message[: _MAX_MESSAGE_CHARACTERS - 1] + "…"
    status = status_pb2.Status(code=code_pb2.Code.Value(error.category.rpc_code), message=message)
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN)
    info.metadata.update(error.metadata)
    info.metadata[HTTP_STATUS] = str(error.category.http_status)
    status.details.add().Pack(info)
    if error.retry_after is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromTimedelta(error.retry_after)
        status.details.add().Pack(retry)
    violations = list(error.field_violations)
    while violations:
        request = error_details_pb2.BadRequest()
        for violation in violations:
            request.field_violations.add(field=violation.field, description=violation.description)
        if status.ByteSize() + request.ByteSize() <= _MAX_STATUS_BYTES:
            status.details.add().Pack(request)
            break
        violations = violations[: len(violations) // 2]
    return status


def abort_status(error: DomainError) -> grpc.Status:
    """What `context.abort_with_status` takes."""
    status: grpc.Status = rpc_status.to_status(to_status(error))
    return status


def from_rpc_error(error: grpc.aio.AioRpcError, peer: str = "the service called") -> DomainError:
    """The error the peer raised, or, when the call failed on its way, one that says so without addresses."""
    status = _status_of(error)
    code = error.code().name
    category = _CATEGORY_BY_CODE.get(code, Category.INTERNAL)
    if status is None or not any(detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR) for detail in status.details):
        return DomainError(category, f"PEER_{code}", _TRANSPORT_MESSAGES.get(code, _UNEXPLAINED).format(peer=peer))
    reason, metadata = f"PEER_{code}", dict[str, str]()
    violations: list[FieldViolation] = []
    retry_after: timedelta | None = None
    info, request, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    for detail in status.details:
        if detail.Unpack(info):
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(request):
            violations = [FieldViolation(item.field, item.description) for item in request.field_violations]
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToTimedelta()
    category = _CATEGORY.get((code, metadata.pop(HTTP_STATUS, "")), category)
    return DomainError(
        category,
        reason,
        status.message,
        metadata=metadata,
        field_violations=violations,
        retry_after=retry_after,
    )


@contextmanager
def domain_errors(peer: str) -> Iterator[None]:
    """Around calls to a peer: those that fail raise DomainError, and name the peer."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, peer) from error


_UNEXPLAINED = "A call to {peer} failed without an explanation."
_TRANSPORT_MESSAGES = {
    "UNAVAILABLE": "A call to {peer} failed: it is not reachable now. Try again.",
    "DEADLINE_EXCEEDED": "A call to {peer} failed: it did not answer in time. Try again with the same request id.",
    "CANCELLED": "A call to {peer} was cancelled.",
    "UNIMPLEMENTED": "A call to {peer} failed: it does not offer this call. Deploy a version that does.",
    "RESOURCE_EXHAUSTED": "A call to {peer} failed: a message is too large, or it has too much to do.",
}


def _status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status | None:
    try:
        return rpc_status.from_call(error)
    except (ValueError, DecodeError):  # a status that contradicts its call, or is no status at all
        return None
