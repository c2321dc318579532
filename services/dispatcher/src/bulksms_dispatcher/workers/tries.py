"""A try: what is known of a send under way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bulksms_dispatcher.domain.batches import LeasedBatch
from bulksms_dispatcher.domain.provider_outcomes import Phase
from bulksms_dispatcher.pacing.arrivals import Journey

__all__ = ["Try"]


@dataclass(slots=True)
class Try:
    """Whatever interrupts a send, this decides what may be said of its batch."""

    batch: LeasedBatch
    traceparent: str
    """Of this try's span: kept with the batch and told with its results."""
    journey: Journey
    """Of its permit."""
    phase: Phase = Phase.WAITING
    arm_unknown: bool = False
    """Whether the row is LEASED or ARMED is open: a commit was begun, and its answer may have been lost."""
    sent_at: float = 0.0
    left_out: list[int] = field(default_factory=list)
    parts: Sequence[int] = ()

    @property
    def may_have_been_sent(self) -> bool:
        """True from the moment the first byte may have left."""
        return self.phase >= Phase.SENDING
