"""Stops: an operator's orders that nothing be sent: for a tenant, for a traffic account, or for everybody."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

from bulksms_dispatcher.domain.messages import MessageClass

__all__ = ["Stop", "StopKey", "StopScope"]


class StopScope(IntEnum):
    """Whose sending a stop concerns; the proto's numbers."""

    TRAFFIC_ACCOUNT = 1
    TENANT = 2
    ALL = 3


@dataclass(frozen=True, slots=True)
class StopKey:
    """What a stop concerns; there is one stop at most of each."""

    scope: StopScope
    key: str
    """The traffic account or tenant; empty where everything is stopped."""
    message_class: MessageClass | None
    """None: every message."""

    @property
    def subject(self) -> str:
        """As the audit names it."""
        classes = self.message_class.name if self.message_class else "every class"
        return f"{self.scope.name} {self.key} ({classes})".replace("  ", " ")


@dataclass(frozen=True, slots=True)
class Stop:
    """A stop in force: who gave it, when and why."""

    key: StopKey
    reason: str
    operator: str
    stopped_at: datetime
