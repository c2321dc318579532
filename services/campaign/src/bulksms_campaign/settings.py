"""The environment of the campaign service."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, ClassVar, Literal

from pydantic import Field, SecretStr

from servicekit.settings import ServiceSettings, Target


class Settings(ServiceSettings):
    """Field `x_y` is the variable `X_Y`; the README's table explains each."""

    service_name: ClassVar[str] = "campaign"
    distribution: ClassVar[str | None] = "bulksms-campaign"

    database_url: SecretStr = Field()
    database_pool_size: int = Field(20, ge=4, le=1000)
    ledger_address: Target
    dispatcher_address: Target

    sms_batch_size: Annotated[int, Field(ge=1, le=100_000)] | Literal["auto"] = 5000
    """The dispatcher's batch size: only to say how many batches an audience makes."""
    sms_batch_size_max: int = Field(5000, ge=1, le=10_000)
    submit_chunk_size: int = Field(5000, ge=1, le=10_000)
    lease_seconds: float = Field(30.0, ge=1, le=600)
    launch_workers: int = Field(2, ge=1, le=32)
    reserve_timeout_seconds: float = Field(5.0, gt=0, le=30)
    import_concurrency: int = Field(4, ge=1, le=64)
    import_max_bytes: int = Field(1 << 30, ge=1)
    watch_limit: int = Field(500, ge=1)
    preview_limit: int = Field(20_000, ge=1, le=1_000_000)

    @property
    def estimated_batch_size(self) -> int:
        """For the number of batches; where the dispatcher's follows the provider they are stored with the maximum."""
        return self.sms_batch_size_max if self.sms_batch_size == "auto" else self.sms_batch_size

    @property
    def lease(self) -> timedelta:
        """How long a worker's claim on a task lasts without a sign of life."""
        return timedelta(seconds=self.lease_seconds)
