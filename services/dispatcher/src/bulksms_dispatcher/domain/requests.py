"""Request bodies: texts rendered for each recipient, and the provider's JSON around them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import chain

import msgspec

from bulksms_dispatcher.domain.recipients import Recipients
from smstext.parts import count_parts, measure
from smstext.template import Template

__all__ = ["RenderedRequest", "render_alone", "render_bulk", "render_one", "render_single", "render_some"]


class _Sms(msgspec.Struct, gc=False):
    text: str
    sender: str


class _Message(msgspec.Struct, gc=False, rename="camel"):
    traffic_account_id: str
    destination: str
    sms: _Sms


class _Bulk(msgspec.Struct):
    messages: Sequence[_Message]


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
    opted_out_positions: Collection[int] = (),
) -> RenderedRequest:
    """The body of `sendmessagesbulk` for all recipients but the positions `opted_out_positions`."""
    phones, texts, parts = _render(text, variable_names, recipients, opted_out_positions)
    messages = [
        _Message(traffic_account_id, f"+{phone}", _Sms(rendered, sender))
        for phone, rendered in zip(phones, texts, strict=True)
    ]
    return RenderedRequest(_json.encode(_Bulk(messages)), parts)


def render_alone(
    traffic_account_id: str,
    sender: str,
    text: str,
    variable_names: Sequence[str],
    recipients: Recipients,
    opted_out_positions: Collection[int] = (),
) -> RenderedRequest:
    """The body of `send` for a campaign's batch of one; empty when its recipient has opted out."""
    phones, texts, parts = _render(text, variable_names, recipients, opted_out_positions)
    if not phones:
        return RenderedRequest(b"", parts)
    return RenderedRequest(_json.encode(_Message(traffic_account_id, f"+{phones[0]}", _Sms(texts[0], sender))), parts)


def render_single(traffic_account_id: str, sender: str, text: str, phone: int) -> RenderedRequest:
    """The body of `send`; the text is taken as it is."""
    body = _json.encode(_Message(traffic_account_id, f"+{phone}", _Sms(text, sender)))
    return RenderedRequest(body, [measure(text).parts])


def render_one(text: str, variable_names: Sequence[str], recipients: Recipients, position: int) -> str:
    """The text one recipient of a bulk is sent."""
    template = Template.parse(text)
    values = recipients.values_of(position)
    return template.render([values[variable_names.index(name)] for name in template.variable_names])


def render_some(
    text: str, variable_names: Sequence[str], recipients: Recipients, phones: Collection[int]
) -> dict[int, str]:
    """The texts that those of a bulk with these numbers are sent."""
    some = recipients.only([position for position, phone in enumerate(recipients.phones) if phone in phones])
    found, texts, _ = _render(text, variable_names, some, ())
    return dict(zip(found, texts, strict=True))


def _render(
    text: str, variable_names: Sequence[str], recipients: Recipients, opted_out_positions: Collection[int]
) -> tuple[Sequence[int], Sequence[str], Sequence[int]]:
    """Phones, texts and parts of those who are in the request."""
    if opted_out_positions:
        recipients = recipients.only([i for i in range(len(recipients.phones)) if i not in opted_out_positions])
    template, phones = Template.parse(text), recipients.phones
    if not phones:
        return (), (), ()
    if not template.placeholders:
        constant = template.render(())
        return phones, [constant] * len(phones), [measure(constant).parts] * len(phones)
    # The submission names its values in its own order; the template has one of its own.
    columns = [recipients.column(variable_names.index(name)) for name in template.variable_names]
    texts = template.render_all(columns)
    defaults = (placeholder.default for placeholder in template.placeholders)
    parts = count_parts(texts, "".join(template.literals), "".join((*chain.from_iterable(columns), *defaults)))
    return phones, texts, parts
