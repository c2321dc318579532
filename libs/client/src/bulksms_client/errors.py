"""Errors of calls as exceptions: what is wrong, in which field, the machine reason, and whether to call again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

import grpc

__all__ = [
    "BulkSmsError",
    "Cancelled",
    "ConfigurationError",
    "Conflict",
    "DeadlineExceeded",
    "FieldViolation",
    "InsufficientCredits",
    "Internal",
    "InvalidArgument",
    "NotFound",
    "Overloaded",
    "PermissionDenied",
    "SubscriptionInactive",
    "Unavailable",
    "Unimplemented",
    "WrongState",
]


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of the request that is wrong: its name as the contract spells it, and the cure."""

    field: str
    description: str


class BulkSmsError(Exception):
    """Everything this library raises about a call. Catch a subclass, or ask `reason`.

    `reason` is the machine reason of the contract (`CAMPAIGN_NOT_FOUND`), or the status code's name where a service
    gave none (`UNAVAILABLE`). `message` is for people. `code` is the gRPC status (None: no call was made),
    `http_status` the HTTP equivalent. `retryable` says whether the very same call, under the same request id, may
    succeed later; `retry_after` when the service said so.
    """

    default_reason: ClassVar[str] = "UNKNOWN"
    default_http_status: ClassVar[int] = 500
    default_retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        field_violations: Sequence[FieldViolation] = (),
        code: grpc.StatusCode | None = None,
        http_status: int | None = None,
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or (code.name if code is not None else self.default_reason)
        self.metadata: Mapping[str, str] = dict(metadata or {})
        self.field_violations = tuple(field_violations)
        self.code = code
        self.http_status = self.default_http_status if http_status is None else http_status
        self.retryable = self.default_retryable
        self.retry_after = retry_after

    def __str__(self) -> str:
        fields = "; ".join(f"{one.field}: {one.description}" for one in self.field_violations)
        return f"{self.message} ({fields}) [{self.reason}]" if fields else f"{self.message} [{self.reason}]"


class ConfigurationError(BulkSmsError):
    """Too little is configured, or something wrong, to make the call: an address, the tenant, a TLS file."""

    default_reason = "CONFIGURATION"
    default_http_status = 400


class InvalidArgument(BulkSmsError):
    """The request is wrong whatever the state of the system; `field_violations` say where and the cure (400)."""

    default_reason = "INVALID_ARGUMENT"
    default_http_status = 400


class NotFound(BulkSmsError):
    """What the request names does not exist (404)."""

    default_http_status = 404


class WrongState(BulkSmsError):
    """Not possible in the present state, e.g. enqueueing a campaign that was sent (409)."""

    default_http_status = 409


class Conflict(WrongState):
    """It exists already, the request id was used for something else, or a race was lost (409)."""


class InsufficientCredits(BulkSmsError):
    """Too few credits; `metadata` has `required` and `available` (402)."""

    default_http_status = 402


class SubscriptionInactive(BulkSmsError):
    """The tenant has no active subscription (403)."""

    default_http_status = 403


class PermissionDenied(BulkSmsError):
    """The caller may not do this, or did not say who it is (403, 401)."""

    default_http_status = 403


class Overloaded(BulkSmsError):
    """Too much at once; nothing was done; come back after `retry_after` (429)."""

    default_http_status = 429
    default_retryable = True


class Unavailable(BulkSmsError):
    """The service, or one that it needs, cannot be reached at the moment (503)."""

    default_http_status = 503
    default_retryable = True


class DeadlineExceeded(BulkSmsError):
    """No answer in time; it may have been done. Repeating under the same request id does it at most once (504)."""

    default_http_status = 504
    default_retryable = True


class Cancelled(BulkSmsError):
    """The call was cancelled before it ended (499)."""

    default_http_status = 499
    default_retryable = True


class Unimplemented(BulkSmsError):
    """Part of the contract, but not built in the service that answered (501)."""

    default_http_status = 501


class Internal(BulkSmsError):
    """The service's fault, or a response that cannot be understood (500)."""
