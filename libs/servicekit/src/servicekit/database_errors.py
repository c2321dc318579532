"""Which database errors pass by themselves, which may be repeated, and what callers are told of them."""

from __future__ import annotations

from datetime import timedelta

import asyncpg
from sqlalchemy import exc

from servicekit.errors import Category, DomainError

__all__ = [
    "DatabaseUnavailable",
    "as_domain_error",
    "is_connection_lost",
    "is_rolled_back",
    "is_transient",
    "sqlstate",
    "unavailable_from",
    "violated_constraint",
]

_RETRY_AFTER = timedelta(seconds=1)

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_SERIALIZATION_FAILURE, _DEADLOCK_DETECTED = "40001", "40P01"
_LOCK_NOT_AVAILABLE, _QUERY_CANCELED, _TOO_MANY_CONNECTIONS = "55P03", "57014", "53300"
_IDLE_IN_TRANSACTION_TIMEOUT = "25P03"
_SHUTDOWNS = ("57P01", "57P02", "57P03", "57P05")  # admin, crash, cannot connect now, idle session
# Raised by asyncpg itself, without a code of the server.
_CLOSED_MESSAGES = ("connection is closed", "closed in the middle", "connection has been released", "is being aborted")


class DatabaseUnavailable(DomainError):  # noqa: N818 - named as its reason is
    """No connection could be made; `detail` says why, for the log."""

    def __init__(self, detail: str) -> None:
        super().__init__(
            Category.UNAVAILABLE,
            "DATABASE_UNAVAILABLE",
            "The database cannot be reached now: try again.",
            retry_after=_RETRY_AFTER,
        )
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}"


def sqlstate(error: BaseException) -> str:
    """The five-character code, of SQLAlchemy's errors and asyncpg's own; empty when there is none."""
    source = error.orig if isinstance(error, exc.DBAPIError) else error
    return getattr(source, "sqlstate", None) or ""


def violated_constraint(error: BaseException) -> str | None:
    """Name of the constraint an insert or update broke; None for any other error."""
    source = error.orig.__cause__ if isinstance(error, exc.IntegrityError) and error.orig else error
    return getattr(source, "constraint_name", None) if sqlstate(error).startswith("23") else None


def is_rolled_back(error: BaseException) -> bool:
    """Did the server itself undo the transaction because of others? Then it may be repeated, even from COMMIT."""
    return sqlstate(error) in (_SERIALIZATION_FAILURE, _DEADLOCK_DETECTED)


def is_connection_lost(error: BaseException) -> bool:
    """Is the connection gone, or was there none? While committing this leaves the outcome open."""
    if isinstance(error, DatabaseUnavailable):
        return True
    if isinstance(error, exc.DBAPIError) and error.connection_invalidated:
        return True
    state = sqlstate(error)
    if state:
        return state.startswith("08") or state in _SHUTDOWNS or state == _IDLE_IN_TRANSACTION_TIMEOUT
    if isinstance(error, exc.InterfaceError | asyncpg.InterfaceError | asyncpg.InternalClientError):
        return any(message in str(error) for message in _CLOSED_MESSAGES)
    return False


def is_transient(error: BaseException) -> bool:
    """May the same transaction succeed the next time, nothing else changed?"""
    return (
        is_rolled_back(error)
        or is_connection_lost(error)
        or _is_outdated(error)
        or isinstance(error, exc.TimeoutError)  # no connection came free in time
        or sqlstate(error) in (_LOCK_NOT_AVAILABLE, _TOO_MANY_CONNECTIONS)
    )


def _is_outdated(error: BaseException) -> bool:
    # A migration changed what a statement prepared before returns; it has been forgotten and is prepared anew.
    source = error.orig.__cause__ if isinstance(error, exc.DBAPIError) and error.orig else error
    return isinstance(source, asyncpg.InvalidCachedStatementError)


def unavailable_from(error: BaseException, where: str) -> DatabaseUnavailable | None:
    """What a failed attempt to connect means, if it is one that passes."""
    passes = isinstance(error, OSError) or is_connection_lost(error) or sqlstate(error) == _TOO_MANY_CONNECTIONS
    return DatabaseUnavailable(f"{where}: {type(error).__qualname__}: {error}") if passes else None


def as_domain_error(error: BaseException) -> DomainError | None:
    """What a caller is told of a database error that a handler lets through; None for bugs."""
    if isinstance(error, DomainError):
        return error
    if isinstance(error, exc.TimeoutError):
        return DomainError(
            Category.OVERLOADED,
            "DATABASE_BUSY",
            "Too much is asked of the database at once: try again in a moment.",
            retry_after=_RETRY_AFTER,
        )
    if is_connection_lost(error):
        return DatabaseUnavailable(type(error).__qualname__)
    if is_rolled_back(error) or sqlstate(error) == _LOCK_NOT_AVAILABLE:
        return DomainError(
            Category.CONFLICT,
            "CONCURRENT_CHANGE",
            "Another request changed the same data at the same time: try again.",
        )
    if sqlstate(error) == _QUERY_CANCELED:
        return DomainError(
            Category.UNAVAILABLE,
            "DATABASE_SLOW",
            "The database did not answer in time: try again later.",
            retry_after=_RETRY_AFTER,
        )
    return None
