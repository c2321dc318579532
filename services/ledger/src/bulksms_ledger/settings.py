"""Settings: the environment the ledger reads besides what every service reads."""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar

from pydantic import Field, SecretStr

from servicekit.settings import ServiceSettings


class Settings(ServiceSettings):
    """See the table in README.md."""

    service_name: ClassVar[str] = "ledger"
    distribution: ClassVar[str | None] = "bulksms-ledger"

    database_url: SecretStr
    group_operations_max: int = Field(default=2000, ge=1, le=10_000)
    waiting_operations_max: int = Field(default=20_000, ge=1000)
    expiry_interval_seconds: float = Field(default=5.0, gt=0)
    audit_interval_seconds: float = Field(default=1.0, gt=0)
    audit_rest_seconds: float = Field(default=5.0, ge=0)
    audit_turns_health: bool = True
    reservation_abandoned_after_days: float = Field(default=7.0, gt=0)

    @property
    def expiry_interval(self) -> timedelta:
        """How often lots past their end are looked for."""
        return timedelta(seconds=self.expiry_interval_seconds)

    @property
    def audit_interval(self) -> timedelta:
        """How often a piece of an account is audited."""
        return timedelta(seconds=self.audit_interval_seconds)

    @property
    def audit_rest(self) -> timedelta:
        """How long an account is left alone after a look at it."""
        return timedelta(seconds=self.audit_rest_seconds)

    @property
    def reservation_abandoned_after(self) -> timedelta:
        """How long an open reservation may go without an entry before it is reported."""
        return timedelta(days=self.reservation_abandoned_after_days)
