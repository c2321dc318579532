"""Settlements: what storage is told about the end of a try."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from bulksms_dispatcher.domain.protocol import BatchState, OutcomeKind
from bulksms_dispatcher.domain.recipients import Recipients
from bulksms_dispatcher.domain.results import Group

__all__ = ["Answered", "Deferred", "Settlement", "Tried", "Vouched"]


@dataclass(frozen=True, slots=True)
class Tried:
    """What is written into the attempt's row; `worker` is needed where there is none yet, before arming."""

    outcome: OutcomeKind
    reason: str = ""
    http_status: int = 0
    worker: str = ""


@dataclass(frozen=True, slots=True)
class Answered:
    """What is kept of the provider's answer; `body` only where not everything in it was understood."""

    http_status: int
    bulk_id: str = ""
    message_ids: Sequence[str] = ()
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Vouched:
    """Messages that were accepted although no answer says so, and the ids of those evidence has named, in order."""

    accepted: int
    message_ids: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Deferred:
    """Recipients that were refused for now: they become a batch of their own, one retry the poorer."""

    recipients: Recipients
    delay: timedelta
    reason: str = "PROVIDER_REFUSED_FOR_NOW"


@dataclass(frozen=True, slots=True)
class Settlement:
    """Where a batch goes and what is told about its recipients."""

    target: BatchState
    groups: tuple[Group, ...]
    tried: Tried | None = None
    reason: str = ""
    description: str = ""
    parts: int = 0
    answered: Answered | None = None
    deferred: Deferred | None = None
    vouched: Vouched | None = None
    """Instead of an answer: what evidence or an operator says was accepted."""

    @property
    def accepted(self) -> int:
        """Messages the provider took."""
        if self.vouched is not None:
            return self.vouched.accepted
        return len(self.answered.message_ids) if self.answered else 0
