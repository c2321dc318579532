"""Blockers: what keeps a campaign from being enqueued."""

from __future__ import annotations

from enum import IntEnum


class EnqueueBlocker(IntEnum):
    """Named as the reason an enqueue would be refused with; numbered as in the contract."""

    CAMPAIGN_STATE = 1
    EMPTY_AUDIENCE = 2
    ACCOUNT_NOT_FOUND = 3
    SUBSCRIPTION_INACTIVE = 4
    INSUFFICIENT_CREDITS = 5
    LEDGER_UNAVAILABLE = 6
    TOO_LATE = 7
