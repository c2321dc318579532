"""Pages of lists: tokens that continue the very list they came from, opaque to callers."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import TypeVar

from servicekit.arguments import ArgumentCheck

__all__ = ["Listing", "position", "word"]

Key = str | int
K = TypeVar("K")
R = TypeVar("R")

_LAST_POSITION = (1 << 63) - 1


class Listing:
    """One list, named by its kind and its filters: `Listing("entries", tenant_id, campaign_id)`.

    A token holds where the next page starts, and a fingerprint of the list: given to another list, or with other
    filters, it is refused instead of answering nonsense. It is no secret and no proof: what is read from it is checked
    like any argument.
    """

    def __init__(self, *named: object) -> None:
        # The names are ours and callers'; a list of texts keeps ("a", "bc") and ("ab", "c") apart.
        content = json.dumps([str(name) for name in named]).encode()
        self._fingerprint = hashlib.sha256(content).hexdigest()[:12]

    def token(self, *key: Key) -> str:
        """The token of the page that starts behind `key`."""
        content = json.dumps([self._fingerprint, *key], separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(content).decode().rstrip("=")

    def next_token(self, found: Sequence[R], size: int, key: Callable[[R], Key]) -> str:
        """The token behind the page `found[:size]`; empty when nothing was found beyond it."""
        return self.token(key(found[size - 1])) if len(found) > size else ""

    def after(self, check: ArgumentCheck, token: str, read: Callable[..., K]) -> K | None:
        """Where a page starts, None at the first; `read` makes it of the key and raises ValueError for a wrong one."""
        if not token:
            return None
        try:
            content = json.loads(base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True))
            if not isinstance(content, list) or content[:1] != [self._fingerprint]:
                raise ValueError("another list's")  # noqa: TRY301 - whatever is wrong with it, the answer is the same
            return read(*content[1:])
        except (binascii.Error, RecursionError, TypeError, ValueError):
            check.wrong("page_token", "must be next_page_token of the page before, with the same filters; or empty")
            return None


def position(key: object) -> int:
    """Reads a key that is a number PostgreSQL can hold."""
    if not isinstance(key, int) or not 0 <= key <= _LAST_POSITION:
        raise ValueError("not a position")
    return key


def word(key: object) -> str:
    """Reads a key that is a text PostgreSQL can hold."""
    if not isinstance(key, str) or not key.isprintable():
        raise ValueError("not a word")
    return key
