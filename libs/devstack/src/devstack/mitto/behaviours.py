"""What can go wrong with one request: every misbehaviour of the provider as a field of one declaration."""

from __future__ import annotations

import math
from random import Random
from typing import Annotated, Literal

import msgspec

Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=0)]
AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]


class Latency(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A wait: constant, plus a log-normal long tail around a median."""

    constant_seconds: Seconds = 0.0
    median_seconds: Seconds = 0.0
    sigma: Annotated[float, msgspec.Meta(ge=0, le=5)] = 1.0
    """Spread of the tail: with 1.0, one in a hundred waits ten times the median."""
    max_seconds: Seconds = 60.0

    def draw(self, random: Random) -> float:
        """How long to wait this time, in seconds."""
        tail = random.lognormvariate(math.log(self.median_seconds), self.sigma) if self.median_seconds else 0.0
        return min(self.constant_seconds + tail, self.max_seconds)


class PartialRejection(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Some messages of a bulk are rejected. A message is rejected when any of the conditions is met."""

    form: Literal["short", "null_id", "item_error", "whole_400"] = "short"
    """How the response says so: left out, with `messageId: null`, with an `error`, or one 400 that accepts none."""
    positions: tuple[Count, ...] = ()
    destination_prefix: str = ""
    destination_suffix: str = ""
    share: Share = 0.0
    error_text: str = "Invalid destination"

    def rejects(self, position: int, destination: str, random: Random) -> bool:
        """Whether the message at this position is rejected."""
        return (
            position in self.positions
            or (bool(self.destination_prefix) and destination.startswith(self.destination_prefix))
            or (bool(self.destination_suffix) and destination.endswith(self.destination_suffix))
            or (self.share > 0 and random.random() < self.share)
        )


class Behaviour(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How one request is treated, in the order of its life. Everything left out is polite."""

    name: str = ""
    """Shown in /control/requests and counted in /control/stats."""

    # While the request is read.
    cut_request_at_byte: AtLeastOne | None = None
    """Read so many bytes of the request (its head included), then reset. Not accepted."""

    # Acceptance.
    latency_before_acceptance: Latency | None = None
    accept: bool | None = None
    """Whether the messages are accepted; by default whenever `status` is below 400."""
    partial: PartialRejection | None = None
    reports_first: bool = False
    """Send this request's delivery reports, and wait for their end, before the response."""

    # The response's content.
    latency: Latency | None = None
    """Between acceptance and the response."""
    status: Annotated[int, msgspec.Meta(ge=200, le=599)] = 200
    error: Literal["message", "error", "errors", "text", "html", "empty"] = "message"
    """Form of the body when `status` is 400 or more."""
    error_text: str = ""
    retry_after: Literal["none", "seconds", "date"] = "none"
    retry_after_seconds: Count = 1
    ids: Literal["positional", "short", "long", "shuffled", "repeated", "null", "missing", "known", "empty"] = (
        "positional"
    )
    """What the response claims the ids are; the log and the reports keep the true ones."""
    ids_count: AtLeastOne = 1
    """How many ids are cut, added, repeated, nulled, left out, or taken from earlier requests."""
    shape: Literal["messages", "messageId", "id"] = "messages"
    """Shape of the single-send response."""
    body: Literal["json", "html", "huge", "truncated", "empty"] = "json"
    """Instead of the JSON: an HTML page, the JSON padded to `huge_bytes`, half of it, or nothing."""
    huge_bytes: Annotated[int, msgspec.Meta(ge=1, le=1_000_000_000)] = 10_000_000

    # The response's way.
    response: Literal["send", "never", "reset", "cut", "drip"] = "send"
    cut_at_byte: Count = 0
    """With `cut`: how many bytes of the response (its head included) are sent."""
    cut_end: Literal["close", "reset"] = "close"
    drip_bytes: AtLeastOne = 1
    drip_interval_seconds: Seconds = 0.1
    close: bool = False
    """Respond with `Connection: close`."""
    refuse_connections_seconds: Seconds = 0.0
    """Afterwards, close the listening socket for so long."""

    def accepts(self) -> bool:
        """Whether the request's messages are accepted at all."""
        if self.cut_request_at_byte is not None:
            return False
        return self.status < 400 if self.accept is None else self.accept


POLITE = Behaviour(name="polite")

NAMED: dict[str, Behaviour] = {
    behaviour.name: behaviour
    for behaviour in (
        POLITE,
        Behaviour("slow", latency=Latency(constant_seconds=1.0)),
        Behaviour("long-tail", latency=Latency(median_seconds=0.1)),
        Behaviour("accept-then-never-respond", response="never"),
        Behaviour("accept-then-reset", response="reset"),
        Behaviour("never-respond", accept=False, response="never"),
        Behaviour("reset", accept=False, response="reset"),
        Behaviour("cut-response", response="cut", cut_at_byte=200),
        Behaviour("cut-request", cut_request_at_byte=1),
        Behaviour("refuse-connections", accept=False, response="reset", refuse_connections_seconds=1.0),
        *(Behaviour(str(status), status=status) for status in (400, 401, 403, 404, 413, 429, 500, 502, 503)),
        Behaviour("429-retry-after", status=429, retry_after="seconds"),
        Behaviour("429-retry-after-date", status=429, retry_after="date"),
        *(Behaviour(f"accept-then-{status}", status=status, accept=True) for status in (500, 502, 503)),
        *(
            Behaviour(f"ids-{ids}", ids=ids)
            for ids in ("short", "long", "shuffled", "repeated", "null", "missing", "known", "empty")
        ),
        Behaviour("html-with-200", body="html"),
        Behaviour("huge-response", body="huge"),
        Behaviour("truncated-json", body="truncated"),
        Behaviour("empty-response", body="empty"),
        Behaviour("slow-drip", response="drip"),
        Behaviour("flat-message-id", shape="messageId"),
        Behaviour("flat-id", shape="id"),
        Behaviour("reports-first", reports_first=True),
        Behaviour("close-connection", close=True),
    )
}
"""Behaviours that can be asked for by name alone."""


class BehaviourError(ValueError):
    """A behaviour was asked for that does not exist or cannot be; the text names field and cure."""


_decoder = msgspec.json.Decoder(Behaviour)


def resolve(wanted: str | Behaviour) -> Behaviour:
    """A behaviour given by name or in full."""
    if isinstance(wanted, str):
        try:
            return NAMED[wanted]
        except KeyError:
            names = ", ".join(NAMED)
            raise BehaviourError(f"no behaviour is called {wanted!r}; the names are: {names}") from None
    if wanted.name:
        return wanted
    stated = msgspec.to_builtins(wanted)
    return msgspec.structs.replace(wanted, name=" ".join(stated) or "polite")


def parse_header(value: str) -> Behaviour:
    """The behaviour that an `X-Simulate` header asks for: a name, or a JSON object."""
    if not value.lstrip().startswith("{"):
        return resolve(value.strip())
    try:
        return resolve(_decoder.decode(value))
    except msgspec.DecodeError as error:
        raise BehaviourError(f"X-Simulate: {error}") from None
