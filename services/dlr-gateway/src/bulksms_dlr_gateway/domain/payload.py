"""The body of a webhook call, taken apart: reports to keep, and what could not be read, each with a reason."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from bulksms_dlr_gateway.domain.reports import Report, microseconds, status_of
from servicekit.privacy import clean_text

__all__ = ["MAX_REPORTS", "Payload", "Rejected", "TooManyReportsError", "UnreadableBodyError", "parse"]

MAX_REPORTS = 5_000
_MAX_ID_LENGTH = 64
_MAX_STATUS_LENGTH = 64
_MAX_DESCRIPTION_LENGTH = 200
_MAX_CODE_LENGTH = 32
_MAX_RAW_BYTES = 2_048


@dataclass(frozen=True, slots=True)
class Rejected:
    """An element that is no report: its place in the array, a machine reason, and its beginning for the quarantine."""

    index: int
    reason: str
    raw: str


@dataclass(frozen=True, slots=True)
class Payload:
    """What one call brought."""

    reports: Sequence[Report]
    rejected: Sequence[Rejected]


class UnreadableBodyError(Exception):
    """The body as a whole is not a JSON object or array; `reason` is for machines, the message for people."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class TooManyReportsError(Exception):
    """More reports in one array than a call may bring."""


def parse(body: bytes) -> Payload:
    """Read a JSON object or array of reports. Bad elements are rejected one by one, a bad body as a whole."""
    elements = _elements(body)
    if len(elements) > MAX_REPORTS:
        raise TooManyReportsError
    reports: list[Report] = []
    rejected: list[Rejected] = []
    for index, raw in enumerate(elements):
        try:
            reports.append(_report(raw))
        except _BadElementError as error:
            rejected.append(Rejected(index, error.reason, raw[:_MAX_RAW_BYTES].decode("utf-8", "replace")))
    return Payload(reports, rejected)


class _BadElementError(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Fields(msgspec.Struct, rename="camel"):
    """The fields that matter, of any type: what is wrong with them is said per element."""

    message_id: Any = None
    delivery_status: Any = None
    status: Any = None
    description: Any = None
    error_code: Any = None
    updated_at: Any = None


_array_decoder = msgspec.json.Decoder(list[msgspec.Raw])
_single_decoder = msgspec.json.Decoder(msgspec.Raw)
_fields_decoder = msgspec.json.Decoder(_Fields)
_KEYS = (b'"messageId"', b'"deliveryStatus"', b'"status"', b'"description"', b'"errorCode"', b'"updatedAt"')


# Escapes one after the other: a pair of surrogates, half of a pair (the group), or any other.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


def _elements(body: bytes) -> Sequence[bytes]:
    body = body.removeprefix(codecs.BOM_UTF8).strip()
    if not body:
        raise UnreadableBodyError("EMPTY_BODY", "The body is empty: send one report as a JSON object, or an array.")
    try:
        body.decode("utf-8")  # msgspec does not look into the strings it skips
        try:
            return _split(body)
        except msgspec.DecodeError:
            # JSON allows half an emoji, as a text cut at a fixed length has; msgspec does not.
            mended = _ESCAPE.sub(lambda found: b"\\ufffd" if found[1] else found[0], body)
            if mended == body:
                raise
            return _split(mended)
    except UnicodeDecodeError as error:
        raise UnreadableBodyError("NOT_UTF8", "The body is not UTF-8.") from error
    except RecursionError as error:
        raise UnreadableBodyError("TOO_DEEP", "The body is nested too deeply.") from error
    except msgspec.DecodeError as error:
        raise UnreadableBodyError("NOT_JSON", "The body is not JSON.") from error


def _split(body: bytes) -> Sequence[bytes]:
    if body.startswith(b"["):
        return [bytes(element) for element in _array_decoder.decode(body)]
    if body.startswith(b"{"):
        return [bytes(_single_decoder.decode(body))]
    raise UnreadableBodyError("NOT_A_REPORT", "The body must be a JSON object or an array of objects.")


def _report(raw: bytes) -> Report:
    fields = _fields(raw)
    message_id = fields.message_id
    if message_id is None:
        raise _BadElementError("MESSAGE_ID_MISSING")
    if not isinstance(message_id, str) or not 0 < len(message_id) <= _MAX_ID_LENGTH or not message_id.isprintable():
        raise _BadElementError("MESSAGE_ID_INVALID")
    word = _word(fields.delivery_status) or _word(fields.status)
    if not word:
        raise _BadElementError("STATUS_MISSING")
    return Report(
        provider_message_id=message_id,
        status=status_of(word),
        raw_status=clean_text(word, _MAX_STATUS_LENGTH),
        description=clean_text(_word(fields.description), _MAX_DESCRIPTION_LENGTH),
        error_code=clean_text(_word(fields.error_code), _MAX_CODE_LENGTH),
        updated_at=_instant(fields.updated_at),
    )


def _fields(raw: bytes) -> _Fields:
    if not raw.startswith(b"{"):
        raise _BadElementError("NOT_AN_OBJECT")
    # A key that stands twice, or may, spelled with an escape: two readers could read two different reports.
    if b"\\" in raw or max(map(raw.count, _KEYS)) > 1:
        return _fields_slowly(raw)
    try:
        fields = _fields_decoder.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:  # a number out of range, for example
        raise _BadElementError("UNREADABLE") from error
    # Nothing found where Mitto puts it: perhaps MessageId, as another serializer of theirs would spell it.
    return fields if fields.message_id is not None else _fields_slowly(raw)


def _fields_slowly(raw: bytes) -> _Fields:
    try:
        found = json.loads(raw, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise _BadElementError("UNREADABLE") from error
    if isinstance(found, _Ambiguous):
        raise _BadElementError("DUPLICATE_KEY")
    return _Fields(
        message_id=found.get("messageid"),
        delivery_status=found.get("deliverystatus"),
        status=found.get("status"),
        description=found.get("description"),
        error_code=found.get("errorcode"),
        updated_at=found.get("updatedat"),
    )


class _Ambiguous(dict[str, Any]):
    """An object with one key twice; harmless inside fields that are not read."""


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = {key.lower(): value for key, value in pairs}
    return found if len(found) == len(pairs) else _Ambiguous()


def _word(value: object) -> str:
    """Text of a field that should be text; numbers are accepted, as error codes may be either."""
    if isinstance(value, str):
        return value.strip()
    return str(value)[:_MAX_RAW_BYTES] if isinstance(value, int) and not isinstance(value, bool) else ""


def _instant(value: object) -> int | None:
    """ISO 8601 with up to seven digits of a second; taken for UTC without an offset, for absent when unreadable."""
    if not isinstance(value, str) or len(value) > 40:
        return None
    try:
        instant = datetime.fromisoformat(value.strip())
        return microseconds(instant if instant.tzinfo else instant.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        return None
