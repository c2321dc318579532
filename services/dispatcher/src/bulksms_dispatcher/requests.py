"""Request bodies: texts rendered for each recipient, straight into the provider's JSON."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import msgspec

from bulksms_dispatcher.recipients import Recipients
from smstext.parts import UCS2_SINGLE, measure
from smstext.template import Template

__all__ = ["RenderedRequest", "count_parts", "render_alone", "render_bulk", "render_one", "render_single"]

_json = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class RenderedRequest:
    """A body ready to be sent and the parts of each of its messages, in order."""

    body: bytes
    parts: Sequence[int]

    @property
    def messages(self) -> int:
        """How many messages it asks for."""
        return len(self.parts)


def render_bulk(
    traffic_account_id: str,
    sender: str,
    text: str,
    variable_names: Sequence[str],
    recipients: Recipients,
    left_out: Collection[int] = (),
) -> RenderedRequest:
    """The body of `sendmessagesbulk` for all recipients but the positions `left_out`."""
    messages, parts = _render(traffic_account_id, sender, text, variable_names, recipients, left_out)
    return RenderedRequest(b'{"messages":[%b]}' % b",".join(messages), parts)


def render_alone(
    traffic_account_id: str,
    sender: str,
    text: str,
    variable_names: Sequence[str],
    recipients: Recipients,
    left_out: Collection[int] = (),
) -> RenderedRequest:
    """The body of `send` for a campaign's batch of one; empty when its recipient is left out."""
    messages, parts = _render(traffic_account_id, sender, text, variable_names, recipients, left_out)
    return RenderedRequest(messages[0] if messages else b"", parts)


def render_single(traffic_account_id: str, sender: str, text: str, phone: int) -> RenderedRequest:
    """The body of `send`; the text is taken as it is."""
    pattern = _pattern(traffic_account_id, sender, _json.encode(text))
    return RenderedRequest(pattern % phone, [count_parts(text)])


def render_one(text: str, variable_names: Sequence[str], recipients: Recipients, position: int) -> str:
    """The text one recipient of a bulk is sent."""
    template = Template.parse(text)
    values = recipients.values_of(position)
    return template.render([values[variable_names.index(name)] for name in template.variable_names])


def count_parts(text: str) -> int:
    """Parts of a text; short ones, the usual case, without looking at each character."""
    if len(text) <= UCS2_SINGLE and (text.isascii() or max(text) <= "\uffff"):
        return 1  # fits one part in either encoding
    return measure(text).parts


def _render(
    traffic_account_id: str,
    sender: str,
    text: str,
    variable_names: Sequence[str],
    recipients: Recipients,
    left_out: Collection[int],
) -> tuple[list[bytes], Sequence[int]]:
    template = Template.parse(text)
    if not template.placeholders:
        constant = template.render(())
        phones: Sequence[int] = recipients.phones
        if left_out:
            phones = [phone for position, phone in enumerate(phones) if position not in left_out]
        pattern = _pattern(traffic_account_id, sender, _json.encode(constant))
        return [pattern % phone for phone in phones], [count_parts(constant)] * len(phones)
    # The submission names its values in its own order; the template has one of its own.
    order = [variable_names.index(name) for name in template.variable_names]
    in_order = order == list(range(recipients.width))
    head, middle, tail = _pieces(traffic_account_id, sender)
    messages: list[bytes] = []
    parts: list[int] = []
    for position, phone in enumerate(recipients.phones):
        if position in left_out:
            continue
        values = recipients.values_of(position)
        rendered = template.render(values if in_order else [values[index] for index in order])
        messages.append(b"%b%d%b%b%b" % (head, phone, middle, _json.encode(rendered), tail))
        parts.append(count_parts(rendered))
    return messages, parts


def _pieces(traffic_account_id: str, sender: str) -> tuple[bytes, bytes, bytes]:
    """What is the same in all messages: up to the number, up to the text, and after it."""
    head = b'{"trafficAccountId":%b,"destination":"+' % _json.encode(traffic_account_id)
    return head, b'","sms":{"text":', b',"sender":%b}}' % _json.encode(sender)


def _pattern(traffic_account_id: str, sender: str, encoded_text: bytes) -> bytes:
    head, middle, tail = _pieces(traffic_account_id, sender)
    return head.replace(b"%", b"%%") + b"%d" + (middle + encoded_text + tail).replace(b"%", b"%%")
