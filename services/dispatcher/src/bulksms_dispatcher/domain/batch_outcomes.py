"""Batch outcomes: what is recorded when an attempt ends, or when an unresolved batch is resolved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from bulksms_dispatcher.domain.protocol import BatchState, OutcomeKind
from bulksms_dispatcher.domain.recipients import Recipients
from bulksms_dispatcher.domain.results import Group, RecipientOutcome, whole

__all__ = ["AttemptResult", "BatchOutcome", "Confirmed", "Deferred", "Return", "StoredResponse"]


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """What is written into the attempt's row; `worker` is needed where there is none yet, before arming."""

    outcome: OutcomeKind
    reason: str = ""
    http_status: int = 0
    worker: str = ""


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """What is kept of the provider's response; `body` only where not everything in it was understood."""

    http_status: int
    bulk_id: str = ""
    message_ids: Sequence[str] = ()
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Confirmed:
    """Messages that were accepted although no response says so, and the ids of those evidence has named, in order."""

    accepted: int
    message_ids: Sequence[str] = ()
    accepted_indexes: Sequence[int] = ()
    """Theirs within the submission, when they are not everybody who was asked for."""


@dataclass(frozen=True, slots=True)
class Deferred:
    """Recipients that were rejected for now: they become a batch of their own, mostly one retry the poorer."""

    recipients: Recipients
    delay: timedelta
    reason: str = "PROVIDER_REFUSED_FOR_NOW"
    costs_retry: bool = True


@dataclass(frozen=True, slots=True)
class Return:
    """Why and for how long a batch goes back into the queue; `attempt` where one was made."""

    delay: timedelta = timedelta(0)
    reason: str = ""
    attempt: AttemptResult | None = None
    costs_retry: bool = False


@dataclass(frozen=True, slots=True)
class BatchOutcome:
    """Where a batch goes and what is reported about its recipients."""

    target: BatchState
    groups: tuple[Group, ...]
    attempt: AttemptResult | None = None
    reason: str = ""
    description: str = ""
    parts: int = 0
    response: StoredResponse | None = None
    deferred: Deferred | None = None
    confirmed: Confirmed | None = None
    """Instead of a response: what evidence says was accepted, or an operator confirmed."""
    released: int = 0
    """Credits given back although nobody will learn whether their messages were sent."""

    @property
    def accepted(self) -> int:
        """Messages the provider took."""
        if self.confirmed is not None:
            return self.confirmed.accepted
        return len(self.response.message_ids) if self.response else 0

    @classmethod
    def ambiguous(cls, reason: str, opted_out_positions: Sequence[int]) -> BatchOutcome:
        """It may have been sent, and nobody knows."""
        return cls(
            BatchState.AMBIGUOUS,
            whole(RecipientOutcome.AMBIGUOUS, opted_out_positions, reason=reason),
            attempt=AttemptResult(OutcomeKind.AMBIGUOUS, reason),
            reason=reason,
        )

    @classmethod
    def not_sent(cls, opted_out_positions: Sequence[int]) -> BatchOutcome:
        """Its worker knows that nothing left, and cannot give it back any more."""
        reason = OutcomeKind.NOT_SENT.value
        return cls(
            BatchState.REJECTED,
            whole(RecipientOutcome.FAILED, opted_out_positions, reason=reason),
            attempt=AttemptResult(OutcomeKind.NOT_SENT, reason),
            reason=reason,
        )

    @classmethod
    def all_opted_out(cls) -> BatchOutcome:
        """Everyone in it has opted out: there is nothing to send."""
        reason = RecipientOutcome.OPTED_OUT.name
        return cls(BatchState.CANCELLED, whole(RecipientOutcome.OPTED_OUT, reason=reason), reason=reason)
