"""Responses of the provider: read leniently whatever the status, matched to the request strictly."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec

from bulksms_dispatcher.domain.known_ids import KnownIds
from servicekit.privacy import clean_text

__all__ = ["ProviderResponse", "Shape", "parse_response", "shape_of"]

MAX_ID_LENGTH = 64
MAX_DESCRIPTION_LENGTH = 200
_TOO_LARGE = re.compile(
    r"too (large|many|big|long)|exceed|maximum (batch|size|number)|max(imum)? ?(size|count)", re.IGNORECASE
)
_NAMED = re.compile(rb"\bmessages\[(\d{1,6})\]", re.IGNORECASE)
_ID_NAMES = (b"messageId", b'"id"')


class Shape(Enum):
    """What a response's body is, seen against the request; the reason of an ambiguous outcome is the shape's name."""

    MATCHED = "every position has an id, all different, none seen before"
    PARTLY = "every position has an id or an error, and both occur"
    ALL_REJECTED = "every position has an error"
    ID_COUNT_MISMATCH = "fewer or more positions than were asked for"
    ID_MISSING = "a position has neither an id nor an error"
    ID_REPEATED = "an id stands at two positions"
    ID_KNOWN = "an id was given out before"
    ID_OF_ANOTHER_TIME = "an id says that it was made for an earlier request"
    ID_MALFORMED = "an id is empty, too long or not printable"
    RESPONSE_UNREADABLE = "not JSON, or JSON of another form"
    NO_IDS = "no id anywhere: what a rejection looks like"
    NO_IDS_ONE_NAMED = "no id anywhere, and one message of the request is named by its position"
    NO_IDS_TOO_LARGE = "no id anywhere, and the words say that the request is too large"
    HAS_IDS = "a rejection that gives out ids all the same"


class _Item(msgspec.Struct, rename="camel", gc=False):
    message_id: str | None = None
    id: str | None = None
    error: Any = None
    errors: Any = None
    error_message: Any = None
    error_code: Any = None


class _Body(msgspec.Struct, rename="camel"):
    bulk_id: str | None = None
    messages: list[_Item] | None = None
    message_id: str | None = None
    id: str | None = None
    message: Any = None
    error: Any = None
    errors: Any = None
    title: Any = None
    detail: Any = None


_decoder = msgspec.json.Decoder(_Body)


@dataclass(frozen=True, slots=True)
class ProviderResponse:
    """A body as far as it could be read; `ids` and `errors` run in parallel, None and "" where there is none."""

    readable: bool
    bulk_id: str = ""
    ids: Sequence[str | None] = ()
    errors: Sequence[str] = ()
    description: str = ""
    mentions_ids: bool = False
    named: Sequence[int] = ()
    """Positions in the request that it names, as messages[3]."""


def parse_response(body: bytes) -> ProviderResponse:
    """Read a body of any status; never raises."""
    mentions_ids = any(name in body for name in _ID_NAMES)
    try:
        parsed = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ProviderResponse(readable=False, mentions_ids=mentions_ids)
    items = parsed.messages
    if items is None:
        flat = parsed.message_id or parsed.id
        items = [_Item(message_id=flat)] if flat else []
    return ProviderResponse(
        readable=True,
        bulk_id=parsed.bulk_id if parsed.bulk_id and _is_wellformed(parsed.bulk_id) else "",
        ids=[item.message_id if item.message_id is not None else item.id for item in items],
        errors=[_error_of(item) for item in items],
        description=_words(parsed.message, parsed.error, parsed.errors, parsed.title, parsed.detail),
        mentions_ids=any(item.message_id or item.id for item in items),
        named=sorted({int(position) for position in _NAMED.findall(body)}),
    )


def shape_of(response: ProviderResponse, expected: int, known: KnownIds) -> Shape:
    """What a 2xx response to a request for `expected` messages is; by position, and only as mitto.md allows."""
    if not response.readable:
        return Shape.RESPONSE_UNREADABLE
    if len(response.ids) != expected:
        return Shape.ID_COUNT_MISMATCH
    ids = [message_id for message_id in response.ids if message_id is not None]
    flaw = _flaw_of_positions(response, len(ids)) or _flaw_of_ids(ids, known)
    if flaw is not None:
        return flaw
    if not ids:
        return Shape.ALL_REJECTED
    return Shape.MATCHED if len(ids) == expected else Shape.PARTLY


def shape_of_rejection(response: ProviderResponse, expected: int) -> Shape:
    """What the body of a response that is not 2xx is."""
    if response.mentions_ids:
        return Shape.HAS_IDS
    if _TOO_LARGE.search(response.description):
        return Shape.NO_IDS_TOO_LARGE
    is_one_named = expected > 1 and len(response.named) == 1 and response.named[0] < expected
    return Shape.NO_IDS_ONE_NAMED if is_one_named else Shape.NO_IDS


def _flaw_of_positions(response: ProviderResponse, accepted: int) -> Shape | None:
    if accepted == len(response.ids) and not any(response.errors):
        return None
    for message_id, error in zip(response.ids, response.errors, strict=True):
        if message_id is None and not error:
            return Shape.ID_MISSING  # an error explains the missing id; silence does not
        if message_id is not None and error:
            return Shape.RESPONSE_UNREADABLE  # accepted and rejected at once: neither can be believed
    return None


def _flaw_of_ids(ids: Sequence[str], known: KnownIds) -> Shape | None:
    if not _are_wellformed(ids):
        return Shape.ID_MALFORMED
    if len(set(ids)) != len(ids):
        return Shape.ID_REPEATED
    if known.includes_any(ids):
        return Shape.ID_KNOWN
    return Shape.ID_OF_ANOTHER_TIME if known.are_of_another_time(ids) else None


def _is_wellformed(message_id: str) -> bool:
    return 0 < len(message_id) <= MAX_ID_LENGTH and message_id.isprintable()


def _are_wellformed(ids: Sequence[str]) -> bool:
    """`_is_wellformed` of all of them, without a look at each: there are thousands."""
    return all(ids) and max(map(len, ids), default=0) <= MAX_ID_LENGTH and "".join(ids).isprintable()


def _error_of(item: _Item) -> str:
    if item.error is None and item.errors is None and item.error_message is None and item.error_code is None:
        return ""  # nearly always
    return _words(item.error, item.errors, item.error_message, item.error_code)


def _words(*candidates: Any) -> str:
    """The first of them that says something, short and without numbers of telephones."""
    for candidate in candidates:
        if candidate in (None, "", [], {}):
            continue
        text = candidate if isinstance(candidate, str) else msgspec.json.encode(candidate).decode()
        return clean_text(text, MAX_DESCRIPTION_LENGTH)
    return ""
