"""Status refresh: when the provider is asked again about messages that have no final report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from bulksms_dispatcher.domain.batches import NO_CAMPAIGN

__all__ = ["Advance", "AwaitedMessage", "BeginRound", "DueRefresh", "Finish", "NextStep", "RefreshSchedule"]


@dataclass(frozen=True, slots=True)
class RefreshSchedule:
    """Rounds at fixed times after acceptance, then each twice as late as the one before, at most `longest_gap` apart.

    With the defaults: 30 s, 2 min, 5 min, 10, 20, 40 min, …, then every six hours until `horizon`.
    """

    first: tuple[timedelta, ...] = (timedelta(seconds=30), timedelta(minutes=2), timedelta(minutes=5))
    longest_gap: timedelta = timedelta(hours=6)
    horizon: timedelta = timedelta(hours=72)

    def after_acceptance(self, number: int) -> timedelta | None:
        """When round `number` (from 1) is due, counted from acceptance; None when it would be past the horizon."""
        if number <= len(self.first):
            offset = self.first[number - 1]
        else:
            offset = self.first[-1]
            for _ in range(number - len(self.first)):
                offset += min(offset, self.longest_gap)
                if offset > self.horizon:
                    break
        return offset if offset <= self.horizon else None


@dataclass(frozen=True, slots=True)
class DueRefresh:
    """A batch to be asked about, taken until `due_at` under that very value."""

    batch_id: UUID
    due_at: datetime
    round: int
    after_phone: int
    """Recipients up to this phone were asked about in this round already."""
    tenant_id: str
    campaign_id: UUID
    submission_id: UUID
    enqueue_number: int
    first_phone: int
    last_phone: int
    traceparent: str

    @property
    def is_single_message(self) -> bool:
        """True when nobody but us keeps its status."""
        return self.campaign_id == NO_CAMPAIGN

    def step_after(self, awaited: Sequence[AwaitedMessage], page: int, schedule: RefreshSchedule) -> NextStep:
        """What follows when `awaited`, at most a `page` of them, were asked about."""
        if len(awaited) == page:
            return Advance(awaited[-1].phone)
        if not awaited and not self.after_phone:
            return Finish(all_reported=True)
        offset = schedule.after_acceptance(self.round + 1)
        return Finish(all_reported=False) if offset is None else BeginRound(self.round + 1, offset)


@dataclass(frozen=True, slots=True)
class Advance:
    """The rest of the round follows at once."""

    after_phone: int


@dataclass(frozen=True, slots=True)
class BeginRound:
    """The next round comes `offset` after acceptance."""

    number: int
    offset: timedelta


@dataclass(frozen=True, slots=True)
class Finish:
    """No more is asked: nothing is awaited, or the horizon has come."""

    all_reported: bool


NextStep = Advance | BeginRound | Finish


@dataclass(frozen=True, slots=True)
class AwaitedMessage:
    """An accepted message without a final report."""

    phone: int
    message_id: str
