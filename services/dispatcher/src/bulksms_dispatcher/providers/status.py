"""The provider's word on a message: `GET Messages/{messageId}`, over connections of its own."""

from __future__ import annotations

import asyncio
import re
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum, IntEnum
from typing import Any
from urllib.parse import quote

import httpcore
import msgspec
from pydantic import SecretStr

from bulksms_dispatcher.providers.retry_after import parse_retry_after

__all__ = ["DeliveryWord", "LookupResult", "ProviderWord", "StatusLookup"]

MESSAGES_PATH = "/api/v1.1/Messages/"
_MAX_BODY = 256 * 1024
_MAX_RAW_STATUS, _MAX_DESCRIPTION = 64, 200
_DIGITS = re.compile(r"\+?\d(?:[ ().\-/]{0,2}\d){5,}")


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
    FAILED = "no answer, or one that cannot be read: nothing was learnt"


@dataclass(frozen=True, slots=True)
class ProviderWord:
    """The answer; `raw_status` and `description` are short, printable and without numbers of telephones."""

    result: LookupResult
    status: DeliveryWord = DeliveryWord.OTHER
    raw_status: str = ""
    description: str = ""
    retry_after: timedelta | None = None


class _Body(msgspec.Struct, rename="camel"):
    message_id: str | None = None
    delivery_status: Any = None
    status: Any = None
    description: Any = None


_decoder = msgspec.json.Decoder(_Body)


class StatusLookup:
    """Asks about one message at a time; its connections are not those of sends, so that it never holds one up."""

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

    async def ask(self, message_id: str) -> ProviderWord:
        """The provider's word on a message; raises nothing but cancellation."""
        try:
            async with asyncio.timeout(self._timeout):
                status, retry_after, body = await self._get(message_id)
        except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, OSError, TimeoutError):
            return ProviderWord(LookupResult.FAILED)
        if status == 404:
            return ProviderWord(LookupResult.UNKNOWN)
        if status == 429:
            return ProviderWord(LookupResult.TOO_FAST, retry_after=retry_after)
        if status in (401, 403):
            return ProviderWord(LookupResult.REFUSED)
        if not 200 <= status < 300 or body is None:
            return ProviderWord(LookupResult.FAILED)
        return _read(body, message_id)

    async def _get(self, message_id: str) -> tuple[int, timedelta | None, bytes | None]:
        url = f"{self._base_url}{MESSAGES_PATH}{quote(message_id, safe='')}"
        async with self._pool.stream("GET", url, headers=self._headers) as response:
            retry_after = None
            for name, value in response.headers:
                if name.lower() == b"retry-after":
                    retry_after = parse_retry_after(value.decode("latin-1").strip(), datetime.now(UTC))
            chunks, size = [], 0
            async for chunk in response.aiter_stream():
                size += len(chunk)
                if size > _MAX_BODY:
                    return response.status, retry_after, None
                chunks.append(chunk)
        return response.status, retry_after, b"".join(chunks)


def _read(body: bytes, message_id: str) -> ProviderWord:
    try:
        parsed = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ProviderWord(LookupResult.FAILED)
    # Another message's status must not be taken for this one's.
    if parsed.message_id is not None and parsed.message_id != message_id:
        return ProviderWord(LookupResult.FAILED)
    word = parsed.delivery_status if parsed.delivery_status is not None else parsed.status
    raw = word if isinstance(word, str) else ""
    return ProviderWord(
        LookupResult.KNOWN,
        _WORDS.get(raw.strip().lower(), DeliveryWord.OTHER),
        _clean(raw)[:_MAX_RAW_STATUS],
        _clean(parsed.description)[:_MAX_DESCRIPTION] if isinstance(parsed.description, str) else "",
    )


def _clean(text: str) -> str:
    printable = "".join(c if c.isprintable() else " " for c in text[: 10 * _MAX_DESCRIPTION])
    return _DIGITS.sub("…", " ".join(printable.split()))
