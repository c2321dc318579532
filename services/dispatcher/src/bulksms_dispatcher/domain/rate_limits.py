"""Limits: how many requests and messages per window, by default and for single accounts and tenants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import IntEnum

__all__ = ["Limit", "LimitScope", "Limits", "Slowdown"]


class LimitScope(IntEnum):
    """What a limit applies to; the proto's numbers."""

    TRAFFIC_ACCOUNT = 1
    TENANT = 2
    GLOBAL = 3


@dataclass(frozen=True, slots=True)
class Limit:
    """At most so many in any window of this length; None means no limit, and 0 that nothing may be sent."""

    max_requests: int | None = None
    max_messages: int | None = None
    window: timedelta = timedelta(seconds=1)
    version: int = 0
    """How often an operator has set it; 0: it is the settings' own."""

    @property
    def etag(self) -> str:
        """Another after every change."""
        return str(self.version)

    @property
    def is_none_allowed(self) -> bool:
        """True when nothing may be sent."""
        return self.max_requests == 0 or self.max_messages == 0

    @property
    def is_unlimited(self) -> bool:
        """True when nothing is counted."""
        return self.max_requests is None and self.max_messages is None

    def allows_as_much_as(self, other: Limit) -> bool:
        """The same but for the version."""
        mine = (self.max_requests, self.max_messages, self.window)
        return mine == (other.max_requests, other.max_messages, other.window)


@dataclass(frozen=True, slots=True)
class Slowdown:
    """After a 429 the account's limits are halved for `halved_for`; then they come back, by the whole in `recovery`."""

    halved_for: timedelta = timedelta(seconds=10)
    recovery: timedelta = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Limits:
    """The defaults of each scope, and what overrides them: (scope, account or tenant) → limit."""

    defaults: Mapping[LimitScope, Limit]
    overrides: Mapping[tuple[LimitScope, str], Limit] = field(default_factory=dict)

    def forbidding(self, traffic_account_id: str, tenant_id: str) -> LimitScope | None:
        """The scope whose limit lets nothing of this tenant through at all; None when none does."""
        keys = {LimitScope.TRAFFIC_ACCOUNT: traffic_account_id, LimitScope.TENANT: tenant_id, LimitScope.GLOBAL: ""}
        return next((scope for scope, key in keys.items() if self.of(scope, key).is_none_allowed), None)

    def of(self, scope: LimitScope, key: str) -> Limit:
        """The limit in force; an override with an empty key replaces the scope's default."""
        own = self.overrides.get((scope, key))
        return own or self.overrides.get((scope, "")) or self.defaults[scope]
