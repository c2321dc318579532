"""The bytes of the provider's responses, polite ones and others."""

from __future__ import annotations

import time
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from random import Random
from typing import Any

import msgspec

from devstack.mitto.behaviours import Behaviour
from devstack.mitto.message_ids import unknown_ulid
from devstack.mitto.wire import OutgoingMessage

HTML = b"<!DOCTYPE html><html><head><title>Mitto</title></head><body><h1>Service page</h1></body></html>\n"

_ERROR_TEXTS = {
    400: "Invalid request",
    401: "Invalid API key",
    403: "Access to the traffic account is denied",
    404: "Resource not found",
    413: "Request body too large",
    429: "Too many requests",
    500: "An unexpected error occurred",
    502: "Bad gateway",
    503: "Service unavailable",
}


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response."""

    status: int
    body: bytes
    content_type: str = "application/json; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()
    close: bool = False

    def encode(self, *, keep_alive: bool) -> bytes:
        """Head and body as they go over the wire."""
        try:
            phrase = HTTPStatus(self.status).phrase
        except ValueError:
            phrase = "Unknown"
        lines = [f"HTTP/1.1 {self.status} {phrase}", f"Date: {formatdate(usegmt=True)}", "Server: mitto-simulator"]
        if self.body:
            lines.append(f"Content-Type: {self.content_type}")
        if self.status != 204:
            lines.append(f"Content-Length: {len(self.body)}")
        lines += [f"{name}: {value}" for name, value in self.headers]
        if not keep_alive or self.close:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + self.body


def json_response(value: object, status: int = 200) -> Response:
    """A JSON response."""
    return Response(status, msgspec.json.encode(value))


def error_response(behaviour: Behaviour, field: str = "Messages") -> Response:
    """An error in the form that the behaviour asks for."""
    status = behaviour.status
    text = behaviour.error_text or _ERROR_TEXTS.get(status, "Error")
    content_type = "application/json; charset=utf-8"
    match behaviour.error:
        case "message":
            body = msgspec.json.encode({"message": text})
        case "error":
            body = msgspec.json.encode({"error": text})
        case "errors":
            body = msgspec.json.encode({"title": text, "status": status, "errors": {field: [text]}})
        case "text":
            body, content_type = text.encode(), "text/plain; charset=utf-8"
        case "html":
            body, content_type = HTML, "text/html; charset=utf-8"
        case "empty":
            body = b""
    return Response(status, body, content_type, _retry_after(behaviour), behaviour.close)


def bulk_response(
    behaviour: Behaviour,
    bulk_id: str,
    messages: list[OutgoingMessage],
    ids: list[str | None],
    earlier: list[str],
    random: Random,
) -> Response:
    """The response of `sendmessagesbulk`. `ids` has None for each message that was rejected."""
    if behaviour.ids == "positional" and behaviour.partial is None:
        # Written by hand: this is most of what responding costs.
        accounts = {message.traffic_account_id for message in messages}
        heads = {account: f'{{"trafficAccountId":{_text(account)},"messageId":"' for account in accounts}
        pieces = [
            f'{heads[message.traffic_account_id]}{message_id}"}}'
            for message, message_id in zip(messages, ids, strict=True)
        ]
        body = f'{{"bulkId":"{bulk_id}","messages":[{",".join(pieces)}]}}'.encode()
    else:
        items = _items(behaviour, messages, ids, earlier, random)
        body = msgspec.json.encode({"bulkId": bulk_id, "messages": items})
    return _dress(behaviour, body)


def single_response(
    behaviour: Behaviour,
    message: OutgoingMessage,
    message_id: str | None,
    earlier: list[str],
    random: Random,
) -> Response:
    """The response of `send`, in one of its three shapes."""
    items = _items(behaviour, [message], [message_id], earlier, random)
    value: object = {"messages": items}
    if behaviour.shape != "messages":
        item = items[0] if items else {}
        value = {"trafficAccountId": message.traffic_account_id, behaviour.shape: item.get("messageId")}
    return _dress(behaviour, msgspec.json.encode(value))


def plain_response(behaviour: Behaviour, value: object) -> Response:
    """Any other JSON response, dressed as the behaviour asks."""
    return _dress(behaviour, msgspec.json.encode(value))


def _items(
    behaviour: Behaviour,
    messages: list[OutgoingMessage],
    ids: list[str | None],
    earlier: list[str],
    random: Random,
) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    for message, message_id in zip(messages, ids, strict=True):
        account = message.traffic_account_id
        if message_id is not None:
            items.append({"trafficAccountId": account, "messageId": message_id})
        elif behaviour.partial is not None and behaviour.partial.form == "null_id":
            items.append({"trafficAccountId": account, "messageId": None})
        elif behaviour.partial is not None and behaviour.partial.form == "item_error":
            items.append({"trafficAccountId": account, "error": behaviour.partial.error_text})
    return _falsify(behaviour, items, earlier, random)


def _falsify(  # noqa: PLR0911 - one return per lie
    behaviour: Behaviour,
    items: list[dict[str, Any]],
    earlier: list[str],
    random: Random,
) -> list[dict[str, Any]]:
    count = behaviour.ids_count
    match behaviour.ids:
        case "short":
            return items[: max(0, len(items) - count)]
        case "long":
            account = items[-1]["trafficAccountId"] if items else ""
            now = int(time.time() * 1000)
            extra = [{"trafficAccountId": account, "messageId": unknown_ulid(now, random)} for _ in range(count)]
            return items + extra
        case "shuffled":
            return random.sample(items, len(items))
        case "repeated":
            # The first id stands in for the ones that follow it.
            return [
                {**item, "messageId": items[0].get("messageId")} if 0 < index <= count else item
                for index, item in enumerate(items)
            ]
        case "null":
            return [{**item, "messageId": None} if index < count else item for index, item in enumerate(items)]
        case "missing":
            return [
                {"trafficAccountId": item["trafficAccountId"]} if index < count else item
                for index, item in enumerate(items)
            ]
        case "known":
            replaced = [{**item, "messageId": known} for item, known in zip(items, earlier[:count], strict=False)]
            return replaced + items[len(replaced) :]
        case "empty":
            return []
        case "positional":
            return items


def _dress(behaviour: Behaviour, body: bytes) -> Response:
    status, close = behaviour.status, behaviour.close
    if status == 204:
        return Response(status, b"", close=close)
    match behaviour.body:
        case "json":
            return Response(status, body, close=close)
        case "html":
            return Response(status, HTML, "text/html; charset=utf-8", close=close)
        case "huge":
            padding = max(0, behaviour.huge_bytes - len(body) - len(',"padding":""'))
            return Response(status, body[:-1] + b',"padding":"' + b"x" * padding + b'"}', close=close)
        case "truncated":
            return Response(status, body[: len(body) // 2], close=close)
        case "empty":
            return Response(status, b"", close=close)


def _retry_after(behaviour: Behaviour) -> tuple[tuple[str, str], ...]:
    match behaviour.retry_after:
        case "seconds":
            return (("Retry-After", str(behaviour.retry_after_seconds)),)
        case "date":
            return (("Retry-After", formatdate(time.time() + behaviour.retry_after_seconds, usegmt=True)),)
        case "none":
            return ()


def _text(value: str) -> str:
    return msgspec.json.encode(value).decode()
