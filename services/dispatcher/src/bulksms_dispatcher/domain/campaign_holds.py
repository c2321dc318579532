"""What keeps a campaign's batches from being sent: of all that holds them, what a person would have to end first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum

from bulksms_dispatcher.domain.account_holds import Hold, HoldKind
from bulksms_dispatcher.domain.rate_limits import LimitScope
from bulksms_dispatcher.domain.stops import Stop

__all__ = ["CampaignHold", "HoldReason", "QueueFacts", "WaitingBatch", "WhyNobodySends", "hold_of"]


class HoldReason(IntEnum):
    """The proto's numbers."""

    NONE = 0
    STOPPED = 1
    PAUSED = 2
    PACING_UNAVAILABLE = 3
    LEDGER_UNAVAILABLE = 4
    ACCOUNT_REFUSED = 5
    BREAKER_OPEN = 6
    PROVIDER_UNAVAILABLE = 7
    ACCOUNT_RESTING = 8
    TRAFFIC_ACCOUNT_LIMIT = 9
    TENANT_LIMIT = 10
    GLOBAL_LIMIT = 11
    BATCHES_WAITING = 12


@dataclass(frozen=True, slots=True)
class CampaignHold:
    """What holds it, since when and until when, as far as that is known."""

    reason: HoldReason = HoldReason.NONE
    since: datetime | None = None
    until: datetime | None = None
    batch_reason: str = ""
    """What the batches that wait say of themselves, or what the provider did."""
    description: str = ""


@dataclass(frozen=True, slots=True)
class WaitingBatch:
    """One batch of the campaign that is not armed yet."""

    reason: str
    not_before: datetime
    changed_at: datetime
    """When it was stored, handed back or claimed last."""


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """What the database knows of a campaign at one moment."""

    now: datetime
    stop: Stop | None
    """The oldest one that concerns it."""
    paused_since: datetime | None
    first: WaitingBatch | None
    """The batch to be claimed next, or one that is leased just now; None when nothing waits to be armed."""
    last: WaitingBatch | None
    """The batch to be claimed last: what was handed back stands behind what has not been tried."""


@dataclass(frozen=True, slots=True)
class WhyNobodySends:
    """What holds everybody's batches, all of one tenant's, or this lane's by a provider that does not take them."""

    account: Hold | None = None
    pacing_away_since: datetime | None = None
    limit_of_none: LimitScope | None = None
    """A limit of 0."""


# Reasons of batches that were handed back because something else holds them.
_OF_BATCHES: Mapping[str, HoldReason] = {
    reason.name: reason
    for reason in (
        HoldReason.PACING_UNAVAILABLE,
        HoldReason.LEDGER_UNAVAILABLE,
        HoldReason.ACCOUNT_REFUSED,
        HoldReason.ACCOUNT_RESTING,
        HoldReason.TRAFFIC_ACCOUNT_LIMIT,
        HoldReason.TENANT_LIMIT,
        HoldReason.GLOBAL_LIMIT,
    )
}
_OF_LIMITS = {
    LimitScope.TRAFFIC_ACCOUNT: HoldReason.TRAFFIC_ACCOUNT_LIMIT,
    LimitScope.TENANT: HoldReason.TENANT_LIMIT,
    LimitScope.GLOBAL: HoldReason.GLOBAL_LIMIT,
}
_OF_ACCOUNTS = {
    HoldKind.AMBIGUITY: HoldReason.BREAKER_OPEN,
    HoldKind.UNAVAILABLE: HoldReason.PROVIDER_UNAVAILABLE,
    HoldKind.REFUSED: HoldReason.ACCOUNT_REFUSED,
}
# So long after a batch was handed back at a limit the limit is what holds its campaign; then it is its turn's.
_FRESH = timedelta(seconds=5)


def hold_of(facts: QueueFacts, everywhere: WhyNobodySends) -> CampaignHold:
    """The first of: an operator's stop, the campaign's pause, what holds everybody, what its batches say."""
    return _ordered(facts) or _everybody(facts, everywhere) or _of_its_batches(facts) or CampaignHold()


def _ordered(facts: QueueFacts) -> CampaignHold | None:
    if facts.stop is not None:
        return CampaignHold(HoldReason.STOPPED, facts.stop.stopped_at, description=facts.stop.reason)
    return CampaignHold(HoldReason.PAUSED, facts.paused_since) if facts.paused_since is not None else None


def _everybody(facts: QueueFacts, everywhere: WhyNobodySends) -> CampaignHold | None:
    if facts.first is None:
        return None  # nothing of it waits
    if everywhere.pacing_away_since is not None:
        return CampaignHold(HoldReason.PACING_UNAVAILABLE, everywhere.pacing_away_since)
    if (hold := everywhere.account) is not None:
        return CampaignHold(_OF_ACCOUNTS[hold.kind], hold.since, hold.probe_at, hold.reason)
    return None if everywhere.limit_of_none is None else CampaignHold(_OF_LIMITS[everywhere.limit_of_none])


def _of_its_batches(facts: QueueFacts) -> CampaignHold | None:
    if facts.first is not None and facts.first.not_before > facts.now:
        return _waiting(facts.first)
    last = facts.last
    is_at_limit = last is not None and last.reason in _OF_BATCHES and facts.now - last.changed_at < _FRESH
    return _waiting(last) if last is not None and is_at_limit else None


def _waiting(batch: WaitingBatch) -> CampaignHold:
    reason = _OF_BATCHES.get(batch.reason, HoldReason.BATCHES_WAITING)
    return CampaignHold(reason, batch.changed_at, batch.not_before, batch.reason)
