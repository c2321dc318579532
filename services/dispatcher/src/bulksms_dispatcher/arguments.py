"""Arguments of requests: read, checked, and all that is wrong said at once, field by field."""

from __future__ import annotations

import re
from uuid import UUID

from servicekit import errors
from servicekit.errors import FieldViolation

__all__ = ["Arguments"]

_TENANT = re.compile(r"[a-z0-9_-]{1,64}")
_E164 = re.compile(r"\+[1-9][0-9]{6,14}")
DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE = 50, 1000
_NO_ID = UUID(int=0)


class Arguments:
    """Collects violations while fields are read; `check` raises them together."""

    def __init__(self) -> None:
        self._violations: list[FieldViolation] = []

    def reject(self, field: str, description: str) -> None:
        """Note what is wrong with a field."""
        self._violations.append(FieldViolation(field, description))

    def check(self) -> None:
        """Raise INVALID_ARGUMENT when anything was wrong."""
        if self._violations:
            named = "; ".join(f"{violation.field} {violation.description}" for violation in self._violations)
            raise errors.invalid_argument("INVALID_ARGUMENT", f"{named}.", violations=self._violations)

    def uuid(self, field: str, value: str) -> UUID:
        """A required UUID."""
        try:
            return UUID(value)
        except ValueError:
            self.reject(field, "must be a UUID")
            return _NO_ID

    def optional_uuid(self, field: str, value: str) -> UUID | None:
        """A UUID or nothing."""
        return self.uuid(field, value) if value else None

    def tenant(self, value: str, field: str = "tenant_id") -> str:
        """A required tenant id."""
        if not _TENANT.fullmatch(value):
            self.reject(field, "must be 1-64 of a-z, 0-9, '-' and '_'")
        return value

    def phone(self, field: str, value: str) -> int:
        """An E.164 number as text."""
        if not _E164.fullmatch(value):
            self.reject(field, "must be an E.164 number: '+' and 7 to 15 digits, no leading 0")
            return 0
        return int(value[1:])

    def text(self, field: str, value: str, *, most: int, least: int = 1) -> str:
        """A text of bounded length; PostgreSQL stores no NUL."""
        if not least <= len(value) <= most or (least and not value.strip()):
            self.reject(field, f"must have {least} to {most} characters")
        elif "\0" in value:
            self.reject(field, "must not contain NUL characters")
        return value

    def page_size(self, value: int) -> int:
        """Entries of a page."""
        if value < 0:
            self.reject("page_size", "must not be negative")
        return min(value or DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE)

    def number_token(self, value: str) -> int:
        """A page token that is a number; 0 for the first page."""
        if not value:
            return 0
        if not value.isascii() or not value.isdigit() or len(value) > 18:
            self.reject("page_token", "must be the next_page_token of the page before")
            return 0
        return int(value)
