"""HTTP requests and responses, as far as a webhook needs them."""

from __future__ import annotations

import http
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec

__all__ = ["Handler", "Head", "Response", "json_response"]


@dataclass(frozen=True, slots=True)
class Head:
    """A request before its body: names of headers are lower-case; of a repeated header the first counts."""

    method: str
    path: bytes
    """As sent, percent-encoded, without the query."""
    headers: Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Response:
    """A response ready to be written; `Date` and `Connection` are the connection's business."""

    status: int
    head: bytes
    """Status line and headers, each with its line end."""
    body: bytes


class Handler(Protocol):
    """What responds to requests."""

    def admit(self, head: Head) -> Response | None:
        """Refuse a request by its head alone, before any of its body is kept; None to go on."""
        ...

    async def respond(self, head: Head, body: bytes) -> Response:
        """Answer an admitted request."""
        ...

    def drain(self) -> None:
        """Be not ready from now on: the server is about to stop."""
        ...


def json_response(status: int, content: object, **headers: str) -> Response:
    """A JSON response; `retry_after="2"` becomes the header Retry-After."""
    body = msgspec.json.encode(content)
    lines = [f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}", "Content-Type: application/json"]
    lines += [f"{name.replace('_', '-').title()}: {value}" for name, value in headers.items()]
    lines.append(f"Content-Length: {len(body)}\r\n")
    return Response(status, "\r\n".join(lines).encode("latin-1"), body)
