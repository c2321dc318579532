"""Outcomes: a literal table from how far a request came, the status and the body to what that proves."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, IntEnum

from bulksms_dispatcher.domain.account_holds import HoldKind
from bulksms_dispatcher.domain.known_ids import KnownIds
from bulksms_dispatcher.domain.protocol import OutcomeKind
from bulksms_dispatcher.domain.provider_responses import (
    ProviderResponse,
    Shape,
    parse_response,
    shape_of,
    shape_of_rejection,
)

__all__ = [
    "BATCH_TOO_LARGE",
    "TABLE",
    "Exchange",
    "Fault",
    "FollowUp",
    "Phase",
    "Promise",
    "Promises",
    "ProviderRejection",
    "Row",
    "Verdict",
    "classify",
]

MAX_REJECTION_GROUPS = 20
BATCH_TOO_LARGE = "BATCH_TOO_LARGE"


class Phase(IntEnum):
    """How far a request came, by httpcore's trace events; from SENDING on, bytes may have left."""

    WAITING = 0
    CONNECTING = 1
    CONNECTED = 2
    ARMING = 3
    SENDING = 4
    AWAITING = 5
    RECEIVING = 6
    RECEIVED = 7


class Fault(Enum):
    """What ended an exchange early; the value is the reason that is recorded."""

    NONE = ""
    POOL_TIMEOUT = "POOL_TIMEOUT"
    CONNECT_TIMEOUT = "CONNECT_TIMEOUT"
    CONNECT_FAILED = "CONNECT_FAILED"
    NOT_ARMED = "NOT_ARMED"
    WRITE_TIMEOUT = "WRITE_TIMEOUT"
    READ_TIMEOUT = "READ_TIMEOUT"
    CONNECTION_LOST = "CONNECTION_LOST"
    RESPONSE_MALFORMED = "RESPONSE_MALFORMED"
    RESPONSE_TOO_LARGE = "RESPONSE_TOO_LARGE"
    INTERRUPTED = "INTERRUPTED"


class FollowUp(Enum):
    """What is done about a batch that was provably not accepted."""

    NONE = "nothing: final"
    RETRY = "another attempt after the backoff, or after what the provider asked for"
    HOLD_ACCOUNT = "another attempt once the account is no longer held: it says nothing of the batch; costs no retry"
    HAND_BACK = "another attempt at once: the fault is ours; costs no retry"
    CUT = "another attempt at once, in two halves; costs no retry; of one recipient: final"
    SEND_OTHERS = "final for the message that was named; another attempt at once for the others; costs no retry"


class Promise(Enum):
    """What a provider may promise beyond what is known of it; some lines of the table are for such providers only."""

    NOT_ACCEPTED = "this status means that nothing of the request was accepted"
    WHOLE_ON_400 = "a 400 refuses the whole request, whatever message of it is named"


@dataclass(frozen=True, slots=True)
class Promises:
    """What the provider in use has promised: by default nothing."""

    not_accepted_statuses: frozenset[int] = frozenset()
    refuses_whole_on_400: bool = False

    def include(self, promise: Promise, status: int) -> bool:
        """True when the promise was made of such a status."""
        match promise:
            case Promise.NOT_ACCEPTED:
                return status in self.not_accepted_statuses
            case Promise.WHOLE_ON_400:
                return self.refuses_whole_on_400


@dataclass(frozen=True, slots=True)
class Exchange:
    """What was seen of one request and its response."""

    phase: Phase
    fault: Fault = Fault.NONE
    status: int = 0
    body: bytes = b""
    retry_after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; None stands for anything. A reason of None is the fault's or the shape's own name."""

    phases: Container[Phase]
    statuses: Container[int] | None
    shapes: Container[Shape] | None
    kind: OutcomeKind
    reason: str | None
    follow_up: FollowUp = FollowUp.NONE
    hold: HoldKind | None = None
    """What it says against the traffic account."""
    promise: Promise | None = None
    """Only where the provider has made it."""

    def matches(self, exchange: Exchange, shape: Shape | None, promises: Promises) -> bool:
        """True when this line is about such an exchange."""
        return (
            exchange.phase in self.phases
            and (self.promise is None or promises.include(self.promise, exchange.status))
            and (self.statuses is None or exchange.status in self.statuses)
            and (self.shapes is None or shape in self.shapes)
        )


_OURS = (Phase.WAITING, Phase.CONNECTED, Phase.ARMING)
_UNDER_WAY = (Phase.SENDING, Phase.AWAITING, Phase.RECEIVING)
_DONE = (Phase.RECEIVED,)
_2XX, _4XX, _5XX = range(200, 300), range(400, 500), range(500, 600)
_O, _F, _H, _P = OutcomeKind, FollowUp, HoldKind, Promise

# Read from the top; the first line that matches decides. What no line before the last knows is ambiguous.
TABLE: tuple[Row, ...] = (
    # No connection free in our own pool, or an arm that failed: no byte left, and it says nothing of the provider.
    Row(_OURS, None, None, _O.NOT_SENT, None, _F.HAND_BACK),
    # DNS, TCP and TLS errors: no byte of the request left the process (rule 3), nor would one of another batch.
    Row((Phase.CONNECTING,), None, None, _O.NOT_SENT, None, _F.HOLD_ACCOUNT, _H.UNAVAILABLE),
    # Timeouts, resets, responses cut or malformed or too large: it may have arrived (rule 4).
    Row(_UNDER_WAY, None, None, _O.AMBIGUOUS, None, _F.NONE, _H.AMBIGUITY),
    # Any 2xx is success, if every message can be given its id by position.
    Row(_DONE, _2XX, {Shape.MATCHED, Shape.PARTLY}, _O.ACCEPTED, ""),
    Row(_DONE, _2XX, {Shape.ALL_REJECTED}, _O.REJECTED, "PROVIDER_REJECTED"),
    # Counts differ, ids missing, repeated or known, HTML with 200: nothing may be matched by position.
    Row(_DONE, _2XX, None, _O.AMBIGUOUS, None, _F.NONE, _H.AMBIGUITY),
    # A rejection that gives out ids contradicts itself.
    Row(_DONE, _4XX, {Shape.HAS_IDS}, _O.AMBIGUOUS, "REFUSAL_WITH_IDS", _F.NONE, _H.AMBIGUITY),
    # Size is a matter of the request (SMS_BATCH_SIZE), not of the recipients: half of it may pass.
    Row(_DONE, {400}, {Shape.NO_IDS_TOO_LARGE}, _O.REJECTED, BATCH_TOO_LARGE, _F.CUT),
    Row(_DONE, {413}, None, _O.REJECTED, BATCH_TOO_LARGE, _F.CUT),
    # One message was named, and the others were not accepted because of it.
    Row(
        _DONE, {400}, {Shape.NO_IDS_ONE_NAMED}, _O.REJECTED, "PROVIDER_REJECTED", _F.SEND_OTHERS, None, _P.WHOLE_ON_400
    ),
    # Documented (400) or its usual relatives: read, judged, rejected whole.
    Row(_DONE, {400, 402, 422}, None, _O.REJECTED, "PROVIDER_REJECTED"),
    # Key, allow-list or account: every other batch would get the same response.
    Row(_DONE, {401, 403}, None, _O.REJECTED, "ACCOUNT_REFUSED", _F.HOLD_ACCOUNT, _H.REFUSED),
    # A wrong MITTO_BASE_URL looks like this: nothing that sends messages was reached.
    Row(_DONE, {404, 405, 415}, None, _O.REJECTED, "PROVIDER_CONFIGURATION", _F.HOLD_ACCOUNT, _H.REFUSED),
    Row(_DONE, {429}, None, _O.REJECTED, "RATE_LIMITED", _F.RETRY),
    # The provider's word that a status means "nothing accepted", unless the response gives out ids all the same.
    Row(_DONE, None, {Shape.HAS_IDS}, _O.AMBIGUOUS, "REFUSAL_WITH_IDS", _F.NONE, _H.AMBIGUITY, _P.NOT_ACCEPTED),
    Row(_DONE, None, None, _O.REJECTED, "PROVIDER_UNAVAILABLE", _F.HOLD_ACCOUNT, _H.UNAVAILABLE, _P.NOT_ACCEPTED),
    # Before or after acceptance? Nobody knows: sent again, they would be duplicates.
    Row(_DONE, _5XX, None, _O.AMBIGUOUS, "SERVER_ERROR", _F.NONE, _H.AMBIGUITY),
    # Redirects (never followed), 408, 409 and whatever else: unproven.
    Row(_DONE, None, None, _O.AMBIGUOUS, "UNEXPECTED_STATUS", _F.NONE, _H.AMBIGUITY),
)


@dataclass(frozen=True, slots=True)
class ProviderRejection:
    """Messages of a bulk that were rejected for the same reason, by position in the request."""

    positions: tuple[int, ...]
    description: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an exchange proves, and what the response said."""

    kind: OutcomeKind
    reason: str
    follow_up: FollowUp = FollowUp.NONE
    hold: HoldKind | None = None
    retry_after: timedelta | None = None
    http_status: int = 0
    description: str = ""
    bulk_id: str = ""
    message_ids: Sequence[str] = ()
    """Of the accepted messages, in the request's order."""
    rejections: tuple[ProviderRejection, ...] = ()
    """Of the others, when only some were accepted or each was rejected by itself."""
    body: bytes = b""
    """Kept as evidence unless everything in it was understood."""

    @property
    def is_good(self) -> bool:
        """True when the provider has judged the messages: it is there, and does its work."""
        judged = self.follow_up in (FollowUp.NONE, FollowUp.CUT, FollowUp.SEND_OTHERS)
        return self.kind is OutcomeKind.ACCEPTED or (self.kind is OutcomeKind.REJECTED and judged)


_NO_PROMISES = Promises()


def classify(exchange: Exchange, expected: int, known: KnownIds, promises: Promises = _NO_PROMISES) -> Verdict:
    """Judge an exchange about `expected` messages."""
    response, shape = None, None
    if exchange.phase is Phase.RECEIVED:
        response = parse_response(exchange.body)
        is_success = exchange.status in _2XX
        shape = shape_of(response, expected, known) if is_success else shape_of_rejection(response, expected)
    row = next(row for row in TABLE if row.matches(exchange, shape, promises))
    own_name = exchange.fault.value or (shape.name if shape else "")
    reason = own_name if row.reason is None else row.reason
    believed = row.kind is OutcomeKind.ACCEPTED
    return Verdict(
        kind=row.kind,
        reason=reason,
        follow_up=row.follow_up,
        hold=row.hold,
        retry_after=exchange.retry_after,
        http_status=exchange.status,
        description=response.description if response else "",
        bulk_id=response.bulk_id if response and believed else "",
        message_ids=[i for i in response.ids if i is not None] if response and believed else (),
        rejections=_rejections(response, row, shape) if response else (),
        body=b"" if shape is Shape.MATCHED else exchange.body,
    )


def _rejections(response: ProviderResponse, row: Row, shape: Shape | None) -> tuple[ProviderRejection, ...]:
    if row.follow_up is FollowUp.SEND_OTHERS:
        return (ProviderRejection(tuple(response.named), response.description),)
    if shape not in (Shape.PARTLY, Shape.ALL_REJECTED):
        return ()
    by_description: dict[str, list[int]] = {}
    for position, (message_id, error) in enumerate(zip(response.ids, response.errors, strict=True)):
        if message_id is None:
            description = error if error in by_description or len(by_description) < MAX_REJECTION_GROUPS else "…"
            by_description.setdefault(description, []).append(position)
    return tuple(ProviderRejection(tuple(positions), description) for description, positions in by_description.items())
