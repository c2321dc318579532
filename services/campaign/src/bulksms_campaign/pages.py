"""Page tokens: where the next page starts, opaque to callers."""

from __future__ import annotations

import base64
import binascii

import msgspec

from bulksms_campaign.arguments import invalid_field

_CURE = "is not a token of this list: pass next_page_token of the page before unchanged, or leave it empty"


def encode_token(*key: str | int) -> str:
    """The token of the page that starts behind `key`."""
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).decode().rstrip("=")


def decode_number(token: str) -> int | None:
    """The key of a list ordered by one number; None for the first page."""
    if not token:
        return None
    try:
        (key,) = msgspec.json.decode(_bytes(token), type=tuple[int])
    except (msgspec.DecodeError, msgspec.ValidationError, binascii.Error, ValueError):
        raise invalid_field("page_token", _CURE) from None
    if not 0 <= key < 1 << 63:
        raise invalid_field("page_token", _CURE)
    return key


def decode_pair(token: str) -> tuple[str, str] | None:
    """The key of a list ordered by two texts; None for the first page."""
    if not token:
        return None
    try:
        return msgspec.json.decode(_bytes(token), type=tuple[str, str])
    except (msgspec.DecodeError, msgspec.ValidationError, binascii.Error, ValueError):
        raise invalid_field("page_token", _CURE) from None


def _bytes(token: str) -> bytes:
    return base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
