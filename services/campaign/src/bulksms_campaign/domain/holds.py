"""Holds: what keeps a campaign from being sent, and which of them its history tells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import IntEnum

NOTED_AFTER = timedelta(seconds=10)
"""So long a hold must have lasted to be an event: what ends sooner would only fill the history."""


class HoldReason(IntEnum):
    """What holds a campaign; numbered as in the contract and in the table."""

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
    LAUNCHING = 13
    DISPATCHER_UNAVAILABLE = 14


# A limit that has an end is how sending goes; being launched and paused are events of their own.
_LIMITS = frozenset({HoldReason.TRAFFIC_ACCOUNT_LIMIT, HoldReason.TENANT_LIMIT, HoldReason.GLOBAL_LIMIT})
_NEVER_NOTED = frozenset({HoldReason.PAUSED, HoldReason.LAUNCHING, HoldReason.BATCHES_WAITING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """What holds a campaign, since when and until when, as far as that is known."""

    reason: HoldReason
    since: datetime
    until: datetime | None = None
    batch_reason: str = ""
    """What the batches that wait say of themselves, or what the provider did."""
    description: str = ""
    """An operator's words about a stop."""

    def following(self, before: Hold | None) -> Hold:
        """This one as seen after `before`: what goes on for the same reason began when it did."""
        same = before is not None and before.reason is self.reason
        return replace(self, since=min(self.since, before.since)) if before is not None and same else self

    def is_noted(self, now: datetime) -> bool:
        """Does it belong in the campaign's history?"""
        ordinary = self.reason in _NEVER_NOTED or (self.reason in _LIMITS and self.until is not None)
        return not ordinary and now - self.since >= NOTED_AFTER

    def __str__(self) -> str:
        """For people: the reason, and what is known besides."""
        parts = [self.reason.name]
        if self.batch_reason and self.batch_reason != self.reason.name:
            parts.append(f"({self.batch_reason})")
        parts.append(f"since {_moment(self.since)}")
        if self.until is not None:
            parts.append(f"until {_moment(self.until)}")
        said = " ".join(parts)
        return f"{said}: {self.description}" if self.description else said


def _moment(moment: datetime) -> str:
    return moment.isoformat(sep=" ", timespec="seconds")
