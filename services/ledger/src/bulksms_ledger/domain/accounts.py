"""Accounts: a tenant's credits, split into available, reserved and captured, and its subscription."""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum
from typing import Final

import msgspec

# What the first entry of every account is chained to.
GENESIS_HASH: Final = bytes(32)


class SubscriptionStatus(IntEnum):
    """Whether a tenant may send; the numbers are those of the contract and of the database."""

    ACTIVE = 1
    SUSPENDED = 2
    CANCELLED = 3


class Subscription(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What gives a tenant the right to send."""

    status: SubscriptionStatus
    active_until: datetime | None  # None: no end
    reason: str
    updated_at: datetime

    def is_active(self, at: datetime) -> bool:
        """True when the tenant may send at this instant."""
        in_time = self.active_until is None or at < self.active_until
        return self.status is SubscriptionStatus.ACTIVE and in_time


class Balance(msgspec.Struct, frozen=True, gc=False):
    """An account's credits at one instant: granted = available + reserved + captured."""

    available: int
    reserved: int
    captured: int  # less refunds
    version: int  # of the last entry contained, 0 before the first
    as_of: datetime

    @property
    def granted(self) -> int:
        """Credits that ever came in, with adjustments and less what expired."""
        return self.available + self.reserved + self.captured


class Account(msgspec.Struct, frozen=True, gc=False):
    """One tenant's account as its last entry left it."""

    tenant_id: str
    created_at: datetime
    available: int = 0
    reserved: int = 0
    captured: int = 0
    version: int = 0
    entry_hash: bytes = GENESIS_HASH
    last_entry_at: datetime | None = None
    subscription: Subscription | None = None

    def balance(self, as_of: datetime) -> Balance:
        """The account's figures, named as of an instant."""
        return Balance(self.available, self.reserved, self.captured, self.version, as_of)
