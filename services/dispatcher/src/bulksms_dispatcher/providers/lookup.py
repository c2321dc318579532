"""Questions about a message to the provider: `GET Messages/{messageId}`, over connections of its own."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpcore
from pydantic import SecretStr

from bulksms_dispatcher.domain.lookup_results import LookupOutcome, LookupResult, read_response
from bulksms_dispatcher.providers.retry_after import parse_retry_after

__all__ = ["MessageLookup"]

MESSAGES_PATH = "/api/v1.1/Messages/"
_MAX_BODY = 256 * 1024


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
