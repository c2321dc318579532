"""What the provider says of a message: `GET Messages/{messageId}`, over connections of its own; read leniently."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum, IntEnum
from typing import Any
from urllib.parse import quote

import httpcore
import msgspec
from pydantic import SecretStr

from bulksms_dispatcher.domain.provider_records import ProviderRecord, read_provider_record
from bulksms_dispatcher.providers.retry_after import parse_retry_after
from servicekit.privacy import clean_text

__all__ = ["DeliveryStatus", "LookupOutcome", "LookupResult", "MessageLookup", "read_response"]

MESSAGES_PATH = "/api/v1.1/Messages/"
_MAX_BODY = 256 * 1024
_MAX_RAW_STATUS, _MAX_DESCRIPTION = 64, 200


class DeliveryStatus(IntEnum):
    """A delivery status; the numbers are those of the campaign contract's DeliveryStatus."""

    OTHER = 0
    SENT = 1
    DELIVERED = 2
    FAILED = 3
    EXPIRED = 4

    @property
    def is_final(self) -> bool:
        """True when it does not change any more."""
        return self in (DeliveryStatus.DELIVERED, DeliveryStatus.FAILED, DeliveryStatus.EXPIRED)


# As in the gateway: today's API, then the words of its older versions.
_STATUS_BY_WORD = {
    "sent": DeliveryStatus.SENT,
    "pending": DeliveryStatus.SENT,
    "queued": DeliveryStatus.SENT,
    "buffered": DeliveryStatus.SENT,
    "delivered": DeliveryStatus.DELIVERED,
    "failure": DeliveryStatus.FAILED,
    "failed": DeliveryStatus.FAILED,
    "undelivered": DeliveryStatus.FAILED,
    "rejected": DeliveryStatus.FAILED,
    "expired": DeliveryStatus.EXPIRED,
}


class LookupOutcome(Enum):
    """What came of asking."""

    KNOWN = "the provider has the message"
    NOT_FOUND = "the provider does not know the id"
    TOO_FAST = "429: ask later"
    REFUSED = "401 or 403: key, allow-list or account"
    UNREADABLE = "2xx and no message of this id"
    FAILED = "no answer, or an error: nothing was learnt"
    NOT_ASKED = "its permit was too old"


@dataclass(frozen=True, slots=True)
class LookupResult:
    """What was learnt; `raw_status` and `description` are short, printable and without numbers of telephones."""

    outcome: LookupOutcome
    status: DeliveryStatus = DeliveryStatus.OTHER
    raw_status: str = ""
    description: str = ""
    retry_after: timedelta | None = None
    provider_record: ProviderRecord | None = None
    """The message itself; None where the response lacks what it takes to know one by."""


_ERRORS = {
    404: LookupOutcome.NOT_FOUND,
    429: LookupOutcome.TOO_FAST,
    401: LookupOutcome.REFUSED,
    403: LookupOutcome.REFUSED,
}


class MessageLookup:
    """The one client for questions; its connections are not those of sends, so that it never holds one up."""

    def __init__(self, base_url: str, api_key: SecretStr, timeout: timedelta, *, connections: int) -> None:
        self._base_url = base_url.rstrip("/")
        self._headers: dict[bytes | str, bytes | str] = {
            "X-Mitto-API-Key": api_key.get_secret_value(),
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "bulksms-dispatcher",
        }
        self._timeout = timeout.total_seconds()
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl.create_default_context() if base_url.startswith("https:") else None,
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=4.0,
            # A GET changes nothing: a connection that was closed meanwhile may be replaced without a thought.
            retries=1,
        )

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.aclose()

    async def ask(self, message_id: str, *, begin: Callable[[], bool]) -> LookupResult:
        """What the provider says of a message; raises nothing but cancellation.

        `begin` is called right before the first byte, and may forbid it.
        """
        try:
            async with asyncio.timeout(self._timeout):
                status, retry_after, body = await self._get(message_id, begin)
        except _Forbidden:
            return LookupResult(LookupOutcome.NOT_ASKED)
        except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, OSError, TimeoutError):
            return LookupResult(LookupOutcome.FAILED)
        if not 200 <= status < 300:
            return LookupResult(_ERRORS.get(status, LookupOutcome.FAILED), retry_after=retry_after)
        return read_response(body, message_id)

    async def _get(self, message_id: str, begin: Callable[[], bool]) -> tuple[int, timedelta | None, bytes]:
        async def observe(event: str, _info: Any) -> None:
            if event == "http11.send_request_headers.started" and not begin():
                raise _Forbidden

        url = f"{self._base_url}{MESSAGES_PATH}{quote(message_id, safe='')}"
        async with self._pool.stream("GET", url, headers=self._headers, extensions={"trace": observe}) as response:
            retry_after = None
            for name, value in response.headers:
                if name.lower() == b"retry-after":
                    retry_after = parse_retry_after(value.decode("latin-1").strip(), datetime.now(UTC))
            chunks, size = [], 0
            async for chunk in response.aiter_stream():
                size += len(chunk)
                if size > _MAX_BODY:
                    return response.status, retry_after, b""  # it is no response
                chunks.append(chunk)
        return response.status, retry_after, b"".join(chunks)


class _Forbidden(Exception):  # noqa: N818 - no error: the question is not asked
    pass


def read_response(body: bytes, message_id: str) -> LookupResult:
    """What a 2xx says of a message; never raises."""
    try:
        parsed = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        parsed = None
    # Another message's status must not be taken for this one's.
    if not isinstance(parsed, dict) or parsed.get("messageId") not in (message_id, None):
        return LookupResult(LookupOutcome.UNREADABLE)
    status = parsed.get("deliveryStatus") if parsed.get("deliveryStatus") is not None else parsed.get("status")
    raw = status if isinstance(status, str) else ""
    description = parsed.get("description")
    return LookupResult(
        LookupOutcome.KNOWN,
        _STATUS_BY_WORD.get(raw.strip().lower(), DeliveryStatus.OTHER),
        clean_text(raw, _MAX_RAW_STATUS),
        clean_text(description, _MAX_DESCRIPTION) if isinstance(description, str) else "",
        provider_record=read_provider_record(parsed, message_id),
    )
