"""Paging: page sizes, and tokens that only continue the very list they came from."""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

import msgspec

from bulksms_ledger.checking import Checker

PAGE_SIZE_DEFAULT: Final = 50
PAGE_SIZE_MAX: Final = 1_000


class _Token(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    listing: str
    after: int | str


def page_size(check: Checker, value: int) -> int:
    """How many to answer: the default for 0, at most the maximum."""
    if value < 0:
        check.refuse("page_size", f"must not be negative; 0 means {PAGE_SIZE_DEFAULT}")
    return min(value, PAGE_SIZE_MAX) if value > 0 else PAGE_SIZE_DEFAULT


def token(after: int | str, *listing: str) -> str:
    """Token of the page after this position in a listing, which is named by its kind and filters."""
    content = msgspec.json.encode(_Token(_fingerprint(listing), after))
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def after_version(check: Checker, page_token: str, *listing: str) -> int | None:
    """The version a page begins after; None at the first page."""
    after = _after(check, page_token, listing)
    return after if isinstance(after, int) else None


def after_name(check: Checker, page_token: str, *listing: str) -> str | None:
    """The name a page begins after; None at the first page."""
    after = _after(check, page_token, listing)
    return after if isinstance(after, str) else None


def _after(check: Checker, page_token: str, listing: tuple[str, ...]) -> int | str | None:
    if not page_token:
        return None
    try:
        content = base64.b64decode(page_token + "=" * (-len(page_token) % 4), altchars=b"-_", validate=True)
        read = msgspec.json.decode(content, type=_Token)
    except (binascii.Error, ValueError, msgspec.DecodeError):
        read = None
    if read is None or read.listing != _fingerprint(listing):
        check.refuse("page_token", "must be next_page_token of the page before, with the same filters; or empty")
        return None
    return read.after


def _fingerprint(listing: tuple[str, ...]) -> str:
    return hashlib.sha256(repr(listing).encode()).hexdigest()[:12]
