"""Arguments of a request: fields are read one by one, and all that is wrong with them is said at once."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import TypeVar
from uuid import UUID

from asyncpg.pgproto import pgproto
from google.protobuf.timestamp_pb2 import Timestamp

from servicekit.errors import DomainError, FieldViolation, invalid_argument

__all__ = ["MAX_PAGE_SIZE", "ArgumentCheck", "invalid_field"]

DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 50, 1000

_TENANT_ID = re.compile(r"[a-z0-9_-]{1,64}", re.ASCII)
_EXTERNAL_ID = re.compile(r"[!-~]{1,64}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_SECOND = 253_402_300_799  # 9999-12-31T23:59:59Z, the last that a Timestamp may hold
_NO_ID = UUID(int=0)
_NAMED_IN_MESSAGE = 8

E = TypeVar("E", bound=IntEnum)
T = TypeVar("T")


class ArgumentCheck:
    """Reads fields, gathering what is wrong with each; `finish` or `passed` raises INVALID_ARGUMENT with all of it.

    What a method returns for a wrong value is a harmless stand-in that nobody gets to use. A description completes the
    field's name to a sentence: "must be …", "has …: give …".
    """

    def __init__(self) -> None:
        self._violations: list[FieldViolation] = []

    def wrong(self, field: str, description: str) -> None:
        """Note that a field is wrong; `description` says what it must be."""
        self._violations.append(FieldViolation(field, description))

    def finish(self) -> None:
        """Raise when anything was wrong."""
        if self._violations:
            raise _invalid(self._violations)

    def passed(self, value: T) -> T:
        """The value made of all that was read; raises when anything was wrong."""
        self.finish()
        return value

    def uuid(self, field: str, value: str) -> UUID:
        """A UUID, required."""
        return self._uuid(field, value, "must be a UUID, such as 0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b")

    def optional_uuid(self, field: str, value: str) -> UUID | None:
        """A UUID, or None for an empty text."""
        return self.uuid(field, value) if value else None

    def request_id(self, value: str) -> UUID:
        """The idempotency key of a mutation."""
        return self._uuid("request_id", value, "must be a UUID: make a new one per operation and repeat it on retries")

    def tenant_id(self, value: str, field: str = "tenant_id") -> str:
        """A tenant's id, required."""
        if not _TENANT_ID.fullmatch(value):
            self.wrong(field, "must be 1 to 64 characters of a-z, 0-9, '-' and '_'")
        return value

    def optional_tenant_id(self, value: str) -> str:
        """A tenant's id, or empty for all tenants."""
        return self.tenant_id(value) if value else ""

    def external_id(self, value: str, field: str = "external_id") -> str:
        """The caller's own id of something, required."""
        if not _EXTERNAL_ID.fullmatch(value):
            self.wrong(field, "must be 1 to 64 visible ASCII characters, without spaces")
        return value

    def optional_external_id(self, value: str, field: str = "external_id") -> str:
        """The caller's own id of something, or empty for none."""
        return self.external_id(value, field) if value else ""

    def text(self, field: str, value: str, *, maximum: int, minimum: int = 0) -> str:
        """A text of one line and bounded length; with `minimum` above 0 blanks alone do not do."""
        if self._length_fits(field, value, minimum, maximum) and not value.isprintable() and _CONTROL.search(value):
            self.wrong(field, "must not contain control characters such as line breaks")
        return value

    def long_text(self, field: str, value: str, *, maximum: int, minimum: int = 0) -> str:
        """A text that may have several lines; NUL, which PostgreSQL does not store, is refused."""
        if self._length_fits(field, value, minimum, maximum) and "\0" in value:
            self.wrong(field, "must not contain NUL characters")
        return value

    def number(self, field: str, value: int, *, minimum: int, maximum: int) -> int:
        """A number within bounds."""
        if not minimum <= value <= maximum:
            self.wrong(field, f"must be at least {minimum} and at most {maximum}")
            return minimum
        return value

    def enum(self, field: str, kind: type[E], value: int) -> E | None:
        """A member of an enum, or None for 0, which contracts keep for "unspecified"."""
        if value == 0:
            return None
        try:
            return kind(value)
        except ValueError:
            self.wrong(field, f"must be one of {_names(kind)}, or unspecified")
            return None

    def required_enum(self, field: str, kind: type[E], value: int) -> E:
        """A member of an enum."""
        try:
            return kind(value)
        except ValueError:
            self.wrong(field, f"must be one of {_names(kind)}")
            return next(iter(kind))

    def instant(self, field: str, value: Timestamp) -> datetime:
        """An instant between 1970 and 9999, to the microsecond."""
        if not (0 <= value.seconds <= _LAST_SECOND and 0 <= value.nanos < 1_000_000_000):
            self.wrong(field, "must be an instant between the years 1970 and 9999")
            return _EPOCH
        return _EPOCH + timedelta(seconds=value.seconds, microseconds=value.nanos // 1000)

    def page_size(self, value: int) -> int:
        """How many entries a page may have: the default for 0, at most the maximum."""
        if value < 0:
            self.wrong("page_size", f"must not be negative; 0 means {DEFAULT_PAGE_SIZE}")
        return min(value, MAX_PAGE_SIZE) if value > 0 else DEFAULT_PAGE_SIZE

    def _uuid(self, field: str, value: str, cure: str) -> UUID:
        # The database driver's class, a UUID of C code: to read and write the standard library's takes ten times as
        # long. Both take more forms than the two everybody means, such as braces and dashes anywhere.
        try:
            read: UUID = pgproto.UUID(value)
        except ValueError:
            read = _NO_ID
        text = value.lower()
        if text != str(read) and (len(text) != 32 or text != read.hex):
            self.wrong(field, cure)
        return read

    def _length_fits(self, field: str, value: str, minimum: int, maximum: int) -> bool:
        if len(value) > maximum:
            self.wrong(field, f"must have at most {maximum} characters; it has {len(value)}")
        elif minimum and (len(value) < minimum or not value.strip()):
            self.wrong(field, f"is required: give {minimum} to {maximum} characters")
        else:
            return True
        return False


def invalid_field(field: str, description: str) -> DomainError:
    """The error of a single wrong field."""
    return _invalid([FieldViolation(field, description)])


def _names(kind: type[IntEnum]) -> str:
    return ", ".join(member.name for member in kind)


def _invalid(violations: list[FieldViolation]) -> DomainError:
    # Where only the message arrives (a result among a batch's) it names as many as a reader can use.
    named = "; ".join(f"{item.field} {item.description}" for item in violations[:_NAMED_IN_MESSAGE])
    left = len(violations) - _NAMED_IN_MESSAGE
    more = f"; and {left} more" if left > 0 else ""
    return invalid_argument("INVALID_ARGUMENT", f"{named}{more}.", violations=violations)
