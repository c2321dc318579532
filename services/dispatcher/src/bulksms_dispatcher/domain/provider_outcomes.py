"""Outcomes: a literal table from how far a request came, the status and the body to what that proves."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, IntEnum

from bulksms_dispatcher.domain.known_ids import KnownIds
from bulksms_dispatcher.domain.protocol import OutcomeKind
from bulksms_dispatcher.domain.provider_responses import Answer, Shape, parse_answer, shape_of, shape_of_refusal

__all__ = ["TABLE", "Exchange", "Fault", "FollowUp", "Phase", "Refusal", "Row", "Verdict", "classify"]

MAX_REFUSAL_GROUPS = 20


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
    RETRY = "another try after the backoff, or after what the provider asked for"
    PAUSE_ACCOUNT = "another try once the traffic account is no longer paused; costs no retry"
    CUT = "another try at once, in smaller batches; costs no retry (only where sizes follow the provider)"
    PARK = "a person must change the configuration first; may be requeued"


@dataclass(frozen=True, slots=True)
class Exchange:
    """What was seen of one request and its answer."""

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

    def matches(self, exchange: Exchange, shape: Shape | None) -> bool:
        """True when this line is about such an exchange."""
        return (
            exchange.phase in self.phases
            and (self.statuses is None or exchange.status in self.statuses)
            and (self.shapes is None or shape in self.shapes)
        )


_NOTHING_LEFT = (Phase.WAITING, Phase.CONNECTING, Phase.CONNECTED, Phase.ARMING)
_UNDER_WAY = (Phase.SENDING, Phase.AWAITING, Phase.RECEIVING)
_DONE = (Phase.RECEIVED,)
_2XX, _4XX, _5XX = range(200, 300), range(400, 500), range(500, 600)
_O, _F = OutcomeKind, FollowUp

# Read from the top; the first line that matches decides. What no line before the last knows is ambiguous.
TABLE: tuple[Row, ...] = (
    # Pool, DNS, TCP and TLS errors, and arming that failed: no byte of the request left the process (rule 3).
    Row(_NOTHING_LEFT, None, None, _O.NOT_SENT, None, _F.RETRY),
    # Timeouts, resets, answers cut or malformed or too large: it may have arrived (rule 4).
    Row(_UNDER_WAY, None, None, _O.AMBIGUOUS, None),
    # Any 2xx is success, if every message can be given its id by position.
    Row(_DONE, _2XX, {Shape.MATCHED, Shape.PARTLY}, _O.ACCEPTED, ""),
    Row(_DONE, _2XX, {Shape.ALL_REFUSED}, _O.REFUSED, "PROVIDER_REJECTED"),
    # Counts differ, ids missing, repeated or known, HTML with 200: nothing may be matched by position.
    Row(_DONE, _2XX, None, _O.AMBIGUOUS, None),
    # A refusal that gives out ids contradicts itself.
    Row(_DONE, _4XX, {Shape.HAS_IDS}, _O.AMBIGUOUS, "REFUSAL_WITH_IDS"),
    # Size is a matter of our configuration (SMS_BATCH_SIZE), not of the recipients.
    Row(_DONE, {400}, {Shape.NO_IDS_TOO_LARGE}, _O.REFUSED, "BATCH_TOO_LARGE", _F.PARK),
    Row(_DONE, {413}, None, _O.REFUSED, "BATCH_TOO_LARGE", _F.PARK),
    # Documented (400) or its usual relatives: read, judged, refused whole.
    Row(_DONE, {400, 402, 422}, None, _O.REFUSED, "PROVIDER_REJECTED"),
    # Key, allow-list or account: every other batch would get the same answer.
    Row(_DONE, {401, 403}, None, _O.REFUSED, "ACCOUNT_REFUSED", _F.PAUSE_ACCOUNT),
    # A wrong MITTO_BASE_URL looks like this: nothing that sends messages was reached.
    Row(_DONE, {404, 405, 415}, None, _O.REFUSED, "PROVIDER_CONFIGURATION", _F.PARK),
    Row(_DONE, {429}, None, _O.REFUSED, "RATE_LIMITED", _F.RETRY),
    # Before or after acceptance? Nobody knows; the seeds of this project retried these and paid with duplicates.
    Row(_DONE, _5XX, None, _O.AMBIGUOUS, "SERVER_ERROR"),
    # Redirects (never followed), 408, 409 and whatever else: unproven.
    Row(_DONE, None, None, _O.AMBIGUOUS, "UNEXPECTED_STATUS"),
)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Messages of a bulk that were refused for the same reason, by position in the request."""

    positions: tuple[int, ...]
    description: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an exchange proves, and what the answer said."""

    kind: OutcomeKind
    reason: str
    follow_up: FollowUp = FollowUp.NONE
    retry_after: timedelta | None = None
    http_status: int = 0
    description: str = ""
    bulk_id: str = ""
    message_ids: Sequence[str] = ()
    """Of the accepted messages, in the request's order."""
    refusals: tuple[Refusal, ...] = ()
    """Of the others, when only some were accepted or each was refused by itself."""
    body: bytes = b""
    """Kept as evidence unless everything in it was understood."""


def classify(exchange: Exchange, expected: int, known: KnownIds) -> Verdict:
    """Judge an exchange about `expected` messages."""
    answer, shape = None, None
    if exchange.phase is Phase.RECEIVED:
        answer = parse_answer(exchange.body)
        is_success = exchange.status in _2XX
        shape = shape_of(answer, expected, known) if is_success else shape_of_refusal(answer)
    row = next(row for row in TABLE if row.matches(exchange, shape))
    own_name = exchange.fault.value or (shape.name if shape else "")
    reason = own_name if row.reason is None else row.reason
    believed = row.kind is OutcomeKind.ACCEPTED
    return Verdict(
        kind=row.kind,
        reason=reason,
        follow_up=row.follow_up,
        retry_after=exchange.retry_after,
        http_status=exchange.status,
        description=answer.description if answer else "",
        bulk_id=answer.bulk_id if answer and believed else "",
        message_ids=[i for i in answer.ids if i is not None] if answer and believed else (),
        refusals=_refusals(answer) if answer and shape in (Shape.PARTLY, Shape.ALL_REFUSED) else (),
        body=b"" if shape is Shape.MATCHED else exchange.body,
    )


def _refusals(answer: Answer) -> tuple[Refusal, ...]:
    by_description: dict[str, list[int]] = {}
    for position, (message_id, error) in enumerate(zip(answer.ids, answer.errors, strict=True)):
        if message_id is None:
            description = error if error in by_description or len(by_description) < MAX_REFUSAL_GROUPS else "…"
            by_description.setdefault(description, []).append(position)
    return tuple(Refusal(tuple(positions), description) for description, positions in by_description.items())
