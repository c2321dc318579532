"""The bodies of Mitto's calls, as msgspec types."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import msgspec

BULK_PATH: Final = "/api/v1.1/Messages/sendmessagesbulk"
SEND_PATH: Final = "/api/v1.1/Messages/send"
MESSAGES_PATH: Final = "/api/v1.1/Messages/"


class Sms(msgspec.Struct, gc=False, frozen=True):
    """The part of a message that goes to the handset."""

    text: str
    sender: str


class OutgoingMessage(msgspec.Struct, gc=False, frozen=True, rename="camel"):
    """One message as a client asks for it."""

    traffic_account_id: str
    destination: str
    sms: Sms


class BulkRequest(msgspec.Struct, gc=False, frozen=True):
    """Body of `sendmessagesbulk`."""

    messages: list[OutgoingMessage]


class MessageSender(msgspec.Struct, gc=False, frozen=True, rename="camel"):
    """Who sent a message, as the GET call names it."""

    id: str
    name: str
    messaging_app_identifier: str


class Conversation(msgspec.Struct, gc=False, frozen=True):
    """Whom a message went to: the destination is the participant's `messagingAppIdentifier`."""

    id: str
    participants: list[MessageSender]


class RequestInfo(msgspec.Struct, gc=False, frozen=True):
    """What the client asked for."""

    sms: Sms


class MessageView(msgspec.Struct, gc=False, frozen=True, rename="camel"):
    """Response of `GET /Messages/{id}`, and body of a delivery report."""

    message_id: str
    text: str
    sender: MessageSender
    conversation: Conversation
    created_at: str
    updated_at: str
    traffic_account_id: str
    delivery_status: str
    description: str | None
    message_parts: int
    request_info: RequestInfo
    reference: str | None = None


class OlderReport(msgspec.Struct, gc=False, frozen=True, rename="camel"):
    """A delivery report under the field names of Mitto's older APIs."""

    message_id: str
    status: str
    error_code: str | None
    updated_at: str


bulk_decoder = msgspec.json.Decoder(BulkRequest)
message_decoder = msgspec.json.Decoder(OutgoingMessage)


def decode_messages(path: str, body: bytes) -> list[OutgoingMessage]:
    """The messages of a request body.

    Raises msgspec.DecodeError (of which ValidationError is a kind) where it is not what Mitto expects.
    """
    if path == "bulk":
        return bulk_decoder.decode(body).messages
    return [message_decoder.decode(body)]


def timestamp(seconds: float) -> str:
    """A time as Mitto writes it: UTC, seven fractional digits."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond:06d}0Z"


_GSM = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_GSM_EXTENSION = frozenset("^{}\\[~]|€\f")


def count_parts(text: str) -> int:
    """Into how many parts an SMS is cut (GSM 03.38, or UCS-2 where a character needs it)."""
    if _GSM.issuperset(text):
        return _divide([1] * len(text), 160, 153)
    if all(character in _GSM or character in _GSM_EXTENSION for character in text):
        return _divide([2 if character in _GSM_EXTENSION else 1 for character in text], 160, 153)
    return _divide([2 if ord(character) > 0xFFFF else 1 for character in text], 70, 67)


def _divide(widths: list[int], single: int, multi: int) -> int:
    if sum(widths) <= single:
        return 1
    parts, used = 1, 0
    for width in widths:
        if used + width > multi:
            parts, used = parts + 1, 0
        used += width
    return parts
