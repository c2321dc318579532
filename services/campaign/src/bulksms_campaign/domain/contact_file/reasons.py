"""Reasons: what is wrong with a line of a file."""

from __future__ import annotations

from enum import StrEnum


class LineReason(StrEnum):
    """Stored by name, and named as in the contract."""

    DUPLICATE = "DUPLICATE"
    PHONE_MISSING = "PHONE_MISSING"
    PHONE_INVALID = "PHONE_INVALID"
    PHONE_NO_REGION = "PHONE_NO_REGION"
    PHONE_NOT_MOBILE = "PHONE_NOT_MOBILE"
    FIELD_COUNT = "FIELD_COUNT"
    FIELD_TOO_LONG = "FIELD_TOO_LONG"
    BLANK_LINE = "BLANK_LINE"
    BAD_QUOTES = "BAD_QUOTES"
    CONTROL_CHARACTER = "CONTROL_CHARACTER"
