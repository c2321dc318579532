"""Checking: reads a request's fields and gathers everything that is wrong with them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final, TypeVar
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from servicekit import errors
from servicekit.errors import FieldViolation

UNITS_MAX: Final = 1_000_000_000
_COUNT_MAX: Final = 2**53  # larger ones are not the same number in every reader of a JSON statement
TEXT_MAX: Final = 500
REFERENCE_MAX: Final = 200
ID_MAX: Final = 64
_TENANT_ID: Final = re.compile(r"[a-z0-9_-]{1,64}", re.ASCII)
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII | re.IGNORECASE)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NO_ID: Final = UUID(int=0)
_LAST_SECOND: Final = 253_402_300_799  # 9999-12-31T23:59:59Z, the last that a Timestamp may hold

T = TypeVar("T")


class Checker:
    """Reads fields, gathering what is wrong with each; `finish` raises it all at once."""

    def __init__(self) -> None:
        self.violations: list[FieldViolation] = []

    def refuse(self, field: str, description: str) -> None:
        """Note that a field is wrong, and how it would be right."""
        self.violations.append(FieldViolation(field, description))

    def finish(self, value: T) -> T:
        """The value, or INVALID_ARGUMENT with every violation."""
        if self.violations:
            raise invalid_arguments(self.violations)
        return value

    def uuid(self, field: str, text: str) -> UUID:
        """A UUID as text, in its canonical form."""
        if not _UUID.fullmatch(text):
            self.refuse(field, "must be a UUID, such as 0190a1b2-c3d4-7e5f-8a6b-7c8d9e0f1a2b")
            return _NO_ID
        return UUID(text)

    def optional_uuid(self, field: str, text: str) -> UUID | None:
        """A UUID as text, or None for an empty one."""
        return self.uuid(field, text) if text else None

    def tenant_id(self, text: str) -> str:
        """A tenant's id."""
        if not _TENANT_ID.fullmatch(text):
            self.refuse("tenant_id", "must be 1 to 64 characters of a-z, 0-9, '-' and '_'")
        return text

    def units(self, value: int) -> int:
        """An amount of credits."""
        if not 1 <= value <= UNITS_MAX:
            self.refuse("units", f"must be at least 1 and at most {UNITS_MAX}")
        return value

    def count(self, field: str, value: int) -> int:
        """A figure that is not negative."""
        if not 0 <= value <= _COUNT_MAX:
            self.refuse(field, f"must be at least 0 and at most {_COUNT_MAX}")
        return value

    def text(self, field: str, value: str, length_max: int = TEXT_MAX) -> str:
        """A text, possibly empty, without control characters."""
        if len(value) > length_max:
            self.refuse(field, f"must have at most {length_max} characters; it has {len(value)}")
        elif _CONTROL.search(value):
            self.refuse(field, "must not contain control characters such as line breaks")
        return value

    def required_text(self, field: str, value: str) -> str:
        """A text that says something."""
        if not value.strip():
            self.refuse(field, f"is required: say why, in at most {TEXT_MAX} characters")
        return self.text(field, value)

    def instant(self, field: str, value: Timestamp) -> datetime:
        """An instant between 1970 and 9999, to the microsecond."""
        if not (0 <= value.seconds <= _LAST_SECOND and 0 <= value.nanos < 1_000_000_000):
            self.refuse(field, "must be an instant between the years 1970 and 9999")
            return _EPOCH
        return _EPOCH + timedelta(seconds=value.seconds, microseconds=value.nanos // 1000)


def invalid_arguments(violations: list[FieldViolation]) -> errors.DomainError:
    """INVALID_ARGUMENT that names every field and its cure."""
    message = "; ".join(f"{violation.field} {violation.description}" for violation in violations)
    return errors.invalid_argument("INVALID_ARGUMENT", f"{message}.", violations=violations)
