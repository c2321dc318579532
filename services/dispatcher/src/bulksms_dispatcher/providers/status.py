"""The provider's word on a message: `GET Messages/{messageId}`, over connections of its own; read leniently."""

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

from bulksms_dispatcher.domain.provider_records import Sighting, sighting_of
from bulksms_dispatcher.providers.retry_after import parse_retry_after
from servicekit.privacy import clean_text

__all__ = ["DeliveryWord", "LookupResult", "MessageLookup", "ProviderWord", "read_answer"]

MESSAGES_PATH = "/api/v1.1/Messages/"
_MAX_BODY = 256 * 1024
_MAX_RAW_STATUS, _MAX_DESCRIPTION = 64, 200


class DeliveryWord(IntEnum):
    """A delivery status in our words; the numbers are those of the campaign contract's DeliveryStatus."""

    OTHER = 0
    SENT = 1
    DELIVERED = 2
    FAILED = 3
    EXPIRED = 4

    @property
    def is_final(self) -> bool:
        """True when it does not change any more."""
        return self in (DeliveryWord.DELIVERED, DeliveryWord.FAILED, DeliveryWord.EXPIRED)


# As in the gateway: today's API, then the words of its older versions.
_WORDS = {
    "sent": DeliveryWord.SENT,
    "pending": DeliveryWord.SENT,
    "queued": DeliveryWord.SENT,
    "buffered": DeliveryWord.SENT,
    "delivered": DeliveryWord.DELIVERED,
    "failure": DeliveryWord.FAILED,
    "failed": DeliveryWord.FAILED,
    "undelivered": DeliveryWord.FAILED,
    "rejected": DeliveryWord.FAILED,
    "expired": DeliveryWord.EXPIRED,
}


class LookupResult(Enum):
    """What came of asking."""

    KNOWN = "the provider has the message"
    UNKNOWN = "the provider does not know the id"
    TOO_FAST = "429: ask later"
    REFUSED = "401 or 403: key, allow-list or account"
    UNREADABLE = "2xx and no message of this id"
    FAILED = "no answer, or an error: nothing was learnt"
    NOT_ASKED = "its permit was too old"


@dataclass(frozen=True, slots=True)
class ProviderWord:
    """The answer; `raw_status` and `description` are short, printable and without numbers of telephones."""

    result: LookupResult
    status: DeliveryWord = DeliveryWord.OTHER
    raw_status: str = ""
    description: str = ""
    retry_after: timedelta | None = None
    sighting: Sighting | None = None
    """The message itself; None where the answer lacks what it takes to know one by."""


_ERRORS = {
    404: LookupResult.UNKNOWN,
    429: LookupResult.TOO_FAST,
    401: LookupResult.REFUSED,
    403: LookupResult.REFUSED,
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

    async def ask(self, message_id: str, *, begin: Callable[[], bool]) -> ProviderWord:
        """The provider's word on a message; raises nothing but cancellation.

        `begin` is called right before the first byte, and may forbid it.
        """
        try:
            async with asyncio.timeout(self._timeout):
                status, retry_after, body = await self._get(message_id, begin)
        except _Forbidden:
            return ProviderWord(LookupResult.NOT_ASKED)
        except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, OSError, TimeoutError):
            return ProviderWord(LookupResult.FAILED)
        if not 200 <= status < 300:
            return ProviderWord(_ERRORS.get(status, LookupResult.FAILED), retry_after=retry_after)
        return read_answer(body, message_id)

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
                    return response.status, retry_after, b""  # it is no answer
                chunks.append(chunk)
        return response.status, retry_after, b"".join(chunks)


class _Forbidden(Exception):  # noqa: N818 - no error: the question is not asked
    pass


def read_answer(body: bytes, message_id: str) -> ProviderWord:
    """What a 2xx says of a message; never raises."""
    try:
        parsed = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        parsed = None
    # Another message's status must not be taken for this one's.
    if not isinstance(parsed, dict) or parsed.get("messageId") not in (message_id, None):
        return ProviderWord(LookupResult.UNREADABLE)
    word = parsed.get("deliveryStatus") if parsed.get("deliveryStatus") is not None else parsed.get("status")
    raw = word if isinstance(word, str) else ""
    description = parsed.get("description")
    return ProviderWord(
        LookupResult.KNOWN,
        _WORDS.get(raw.strip().lower(), DeliveryWord.OTHER),
        clean_text(raw, _MAX_RAW_STATUS),
        clean_text(description, _MAX_DESCRIPTION) if isinstance(description, str) else "",
        sighting=sighting_of(parsed, message_id),
    )
