"""Arguments of a request, checked together so that the caller learns of everything wrong at once."""

from __future__ import annotations

import re
from uuid import UUID

from servicekit.errors import DomainError, FieldViolation, invalid_argument
from smstext.phone import PhoneProblem, is_known_region, parse_phone

_TENANT = re.compile(r"[a-z0-9_-]{1,64}")
_GROUP = re.compile(r"[\w.-]{1,64}")
_NIL = UUID(int=0)
MAX_GROUPS = 100


class ArgumentCheck:
    """Collects violations; `finish` raises INVALID_ARGUMENT when there are any.

    What a method returns for a wrong value is a harmless stand-in that is never used, as `finish` raises.
    """

    def __init__(self) -> None:
        self._violations: list[FieldViolation] = []

    def wrong(self, field: str, description: str) -> None:
        """Note that `field` is wrong; `description` says what it must be."""
        self._violations.append(FieldViolation(field, description))

    def finish(self) -> None:
        """Raise when anything was wrong."""
        if self._violations:
            said = "; ".join(f"{item.field}: {item.description}" for item in self._violations[:3])
            more = f"; and {len(self._violations) - 3} more" if len(self._violations) > 3 else ""
            raise invalid_argument("INVALID_ARGUMENT", f"{said}{more}.", violations=self._violations)

    def uuid(self, field: str, value: str) -> UUID:
        """A UUID, required."""
        try:
            return UUID(value)
        except ValueError:
            self.wrong(field, f"{'is missing' if not value else 'is not a UUID'}: give a UUID")
            return _NIL

    def request_id(self, value: str) -> UUID:
        """The idempotency key of a mutation."""
        try:
            return UUID(value)
        except ValueError:
            self.wrong("request_id", "must be a UUID: make a new one per operation and repeat it on retries")
            return _NIL

    def tenant_id(self, value: str, field: str = "tenant_id") -> str:
        """A tenant, required."""
        if not _TENANT.fullmatch(value):
            self.wrong(field, "must be 1-64 characters of a-z, 0-9, '-' and '_'")
        return value

    def text(self, field: str, value: str, *, most: int, least: int = 0) -> str:
        """A text of bounded length without control characters."""
        if not least <= len(value) <= most:
            self.wrong(field, f"has {len(value)} characters: give {least}-{most}")
        elif any(ord(character) < 32 for character in value):
            self.wrong(field, "has control characters: leave them out")
        return value

    def groups(self, field: str, values: list[str]) -> tuple[str, ...]:
        """Group names, made unique and sorted."""
        if len(values) > MAX_GROUPS:
            self.wrong(field, f"names {len(values)} groups: at most {MAX_GROUPS}")
        for index, name in enumerate(values):
            if not _GROUP.fullmatch(name):
                self.wrong(f"{field}[{index}]", "must be 1-64 letters, digits, '-', '_' and '.'")
                break
        return tuple(sorted(set(values)))

    def region(self, field: str, value: str) -> str:
        """A country for national numbers, or empty."""
        region = value.upper()
        if region and not is_known_region(region):
            self.wrong(field, 'is not a country: give an ISO 3166 alpha-2 code such as "GR", or leave it empty')
        return region

    def phone(self, field: str, value: str, region: str = "") -> int:
        """A mobile number as E.164 digits."""
        result = parse_phone(value, region)
        if result.digits is None:
            self.wrong(field, (result.problem or PhoneProblem.PHONE_INVALID).value)
            return 0
        return result.digits

    def page_size(self, value: int) -> int:
        """The rows of a page: 50 unless told, at most 1,000."""
        if value < 0:
            self.wrong("page_size", "must not be negative: leave it 0 for the default of 50")
        return min(value, 1000) if value > 0 else 50


def invalid_field(field: str, description: str) -> DomainError:
    """The error of a single wrong field."""
    return invalid_argument(
        "INVALID_ARGUMENT", f"{field}: {description}.", violations=[FieldViolation(field, description)]
    )
