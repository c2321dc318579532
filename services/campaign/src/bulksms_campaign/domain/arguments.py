"""What requests of this service have beside ids and texts: groups, countries, telephone numbers."""

from __future__ import annotations

import re

from servicekit.arguments import ArgumentCheck
from smstext.phone import PhoneProblem, is_known_region, parse_phone

__all__ = ["groups_from", "phone_from", "region_from"]

MAX_GROUPS = 100
_GROUP = re.compile(r"[\w.-]{1,64}")


def groups_from(check: ArgumentCheck, field: str, values: list[str]) -> tuple[str, ...]:
    """Group names, made unique and sorted."""
    if len(values) > MAX_GROUPS:
        check.wrong(field, f"names {len(values)} groups: at most {MAX_GROUPS}")
    for index, name in enumerate(values):
        if not _GROUP.fullmatch(name):
            check.wrong(f"{field}[{index}]", "must be 1-64 letters, digits, '-', '_' and '.'")
            break
    return tuple(sorted(set(values)))


def region_from(check: ArgumentCheck, field: str, value: str) -> str:
    """A country for national numbers, or empty."""
    region = value.upper()
    if region and not is_known_region(region):
        check.wrong(field, 'is not a country: give an ISO 3166 alpha-2 code such as "GR", or leave it empty')
    return region


def phone_from(check: ArgumentCheck, field: str, value: str, region: str = "") -> int:
    """A mobile number as E.164 digits."""
    result = parse_phone(value, region)
    if result.digits is None:
        check.wrong(field, f"is wrong: {(result.problem or PhoneProblem.PHONE_INVALID).value}")
        return 0
    return result.digits
