"""Settlements: what storage is told about the end of a try."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bulksms_dispatcher.protocol import BatchState, OutcomeKind
from bulksms_dispatcher.results import Group

__all__ = ["Answered", "Settlement", "Tried"]


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
class Settlement:
    """Where a batch goes and what is told about its recipients."""

    target: BatchState
    groups: tuple[Group, ...]
    tried: Tried | None = None
    reason: str = ""
    description: str = ""
    parts: int = 0
    answered: Answered | None = None

    @property
    def accepted(self) -> int:
        """Messages the provider took."""
        return len(self.answered.message_ids) if self.answered else 0
