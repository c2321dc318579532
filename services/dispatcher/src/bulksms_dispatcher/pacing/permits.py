"""Permits: leave to send one request, or the reason why not now, and what became of a permit's slot."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from bulksms_dispatcher.domain.rate_limits import LimitScope

__all__ = ["Permit", "ReleasedSlot", "Throttled"]


@dataclass(frozen=True, slots=True)
class Permit:
    """A rate-limit slot in the window of every limited scope; its request may begin between two moments.

    Moments are of this process's monotonic clock, in seconds. Outside of them nothing may be sent: before, the slot is
    still another request's; afterwards it counts for a window and is then given to another.
    """

    entry: str
    keys: tuple[str, ...]
    """Of the limited scopes; empty where nothing is limited."""
    begins_at: float
    ends_at: float


@dataclass(frozen=True, slots=True)
class Throttled:
    """No slot now; `scope` says whose limit is reached (None: the account, or this kind of request, is blocked)."""

    wait: timedelta
    """More than nothing, and at most a window (or what is left of a block)."""
    scope: LimitScope | None


@dataclass(frozen=True, slots=True)
class ReleasedSlot:
    """What became of a permit's slot."""

    permit: Permit
    arrived_at: float | None
    """When its request had reached the provider at the latest (monotonic); None: nothing was sent."""
