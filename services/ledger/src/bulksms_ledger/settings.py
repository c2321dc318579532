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
    group_operations_max: int = Field(default=1000, ge=1, le=10_000)
    waiting_operations_max: int = Field(default=20_000, ge=1000)
    expiry_interval_seconds: float = Field(default=5.0, gt=0)

    @property
    def expiry_interval(self) -> timedelta:
        """How often lots past their end are looked for."""
        return timedelta(seconds=self.expiry_interval_seconds)
