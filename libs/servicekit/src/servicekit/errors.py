"""Errors a caller is meant to see: a category, a machine reason, a sentence with the cure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

__all__ = [
    "Category",
    "DomainError",
    "FieldViolation",
    "already_exists",
    "conflict",
    "forbidden",
    "internal",
    "invalid_argument",
    "not_found",
    "overloaded",
    "payment_required",
    "unavailable",
    "unimplemented",
    "wrong_state",
]


class Category(Enum):
    """What kind of error: (canonical RPC code, HTTP equivalent, may the same request succeed later).

    Three categories share FAILED_PRECONDITION; the HTTP status, carried along, tells them apart. The code is kept as a
    name so that domain code importing this module imports no RPC library.
    """

    INVALID_ARGUMENT = ("INVALID_ARGUMENT", 400, False)
    UNAUTHENTICATED = ("UNAUTHENTICATED", 401, False)
    NOT_FOUND = ("NOT_FOUND", 404, False)
    ALREADY_EXISTS = ("ALREADY_EXISTS", 409, False)
    WRONG_STATE = ("FAILED_PRECONDITION", 409, False)
    PAYMENT_REQUIRED = ("FAILED_PRECONDITION", 402, False)
    FORBIDDEN = ("FAILED_PRECONDITION", 403, False)
    PERMISSION_DENIED = ("PERMISSION_DENIED", 403, False)
    OVERLOADED = ("RESOURCE_EXHAUSTED", 429, True)
    UNAVAILABLE = ("UNAVAILABLE", 503, True)
    DEADLINE_EXCEEDED = ("DEADLINE_EXCEEDED", 504, True)
    CANCELLED = ("CANCELLED", 499, True)
    CONFLICT = ("ABORTED", 409, True)
    UNIMPLEMENTED = ("UNIMPLEMENTED", 501, False)
    INTERNAL = ("INTERNAL", 500, False)

    def __init__(self, rpc_code: str, http_status: int, retryable: bool) -> None:  # noqa: FBT001 - a table's column
        self.rpc_code = rpc_code
        self.http_status = http_status
        self.retryable = retryable


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field of the request that is wrong: its path as the proto spells it, and what it must be."""

    field: str
    description: str


class DomainError(Exception):
    """Raised where it is known, rendered in one place: the server interceptor.

    `message` says what is wrong and the cure; like `metadata` it reaches callers and logs, so neither may hold a
    telephone number, a text or a secret. `reason` is UPPER_SNAKE and part of the contract.
    """

    def __init__(
        self,
        category: Category,
        reason: str,
        message: str,
        *,
        metadata: Mapping[str, object] | None = None,
        field_violations: Sequence[FieldViolation] = (),
        retry_after: timedelta | None = None,
    ) -> None:
        super().__init__(message)
        self.category = category
        self.reason = reason
        self.message = message
        self.metadata: Mapping[str, str] = {key: str(value) for key, value in (metadata or {}).items()}
        self.field_violations = tuple(field_violations)
        self.retry_after = retry_after

    @property
    def retryable(self) -> bool:
        """May the same request, repeated unchanged under the same request id, succeed later?"""
        return self.category.retryable

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


def invalid_argument(
    reason: str, message: str, *, violations: Sequence[FieldViolation] = (), **metadata: object
) -> DomainError:
    """The request is wrong whatever the state of the system (400)."""
    return DomainError(Category.INVALID_ARGUMENT, reason, message, metadata=metadata, field_violations=violations)


def not_found(reason: str, message: str, **metadata: object) -> DomainError:
    """What the request names does not exist (404)."""
    return DomainError(Category.NOT_FOUND, reason, message, metadata=metadata)


def already_exists(reason: str, message: str, **metadata: object) -> DomainError:
    """What the request would create exists (409)."""
    return DomainError(Category.ALREADY_EXISTS, reason, message, metadata=metadata)


def wrong_state(reason: str, message: str, **metadata: object) -> DomainError:
    """Not possible in the present state; repeating does not help until the state is changed (409)."""
    return DomainError(Category.WRONG_STATE, reason, message, metadata=metadata)


def payment_required(reason: str, message: str, **metadata: object) -> DomainError:
    """Not paid for (402)."""
    return DomainError(Category.PAYMENT_REQUIRED, reason, message, metadata=metadata)


def forbidden(reason: str, message: str, **metadata: object) -> DomainError:
    """Not allowed under the present terms of the caller (403)."""
    return DomainError(Category.FORBIDDEN, reason, message, metadata=metadata)


def overloaded(reason: str, message: str, *, retry_after: timedelta, **metadata: object) -> DomainError:
    """Too much at once; nothing was done; come back after `retry_after` (429)."""
    return DomainError(Category.OVERLOADED, reason, message, metadata=metadata, retry_after=retry_after)


def unavailable(reason: str, message: str, *, retry_after: timedelta | None = None, **metadata: object) -> DomainError:
    """Something needed is away for the moment (503)."""
    return DomainError(Category.UNAVAILABLE, reason, message, metadata=metadata, retry_after=retry_after)


def conflict(reason: str, message: str, *, retry_after: timedelta | None = None, **metadata: object) -> DomainError:
    """Lost a race against another request; the same request may win next time (409)."""
    return DomainError(Category.CONFLICT, reason, message, metadata=metadata, retry_after=retry_after)


def unimplemented(reason: str, message: str, **metadata: object) -> DomainError:
    """Part of the contract, but not built (501)."""
    return DomainError(Category.UNIMPLEMENTED, reason, message, metadata=metadata)


def internal(reason: str, message: str, **metadata: object) -> DomainError:
    """Our fault (500)."""
    return DomainError(Category.INTERNAL, reason, message, metadata=metadata)
