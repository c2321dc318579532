"""The dispatcher's environment."""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar, Self

from pydantic import Field, SecretStr, model_validator

from bulksms_dispatcher.pacing.limits import Limit, Limits, LimitScope
from bulksms_dispatcher.providers.mitto import Timeouts
from bulksms_dispatcher.retries import Backoff
from servicekit.settings import ServiceSettings

__all__ = ["Settings"]

# What an armed batch needs beyond the provider's answer: marking it late, and a pause of the process.
_LEASE_MARGIN_SECONDS = 10.0


class Settings(ServiceSettings):
    """Field `x_y` is the variable `X_Y`; the README has the table."""

    service_name: ClassVar[str] = "dispatcher"
    distribution: ClassVar[str] = "bulksms-dispatcher"

    database_url: SecretStr
    redis_url: SecretStr
    redis_key_prefix: str = "bulksms:"
    # Any gRPC target: with several replicas it names more than one address.
    campaign_address: str = Field("127.0.0.1:50051", min_length=1)
    ledger_address: str = Field("127.0.0.1:50051", min_length=1)

    mitto_base_url: str = Field("https://messaging.mittoapi.com", pattern=r"^https?://[^/?#]+(/[^?#]*)?$")
    mitto_api_key: SecretStr
    mitto_traffic_account_id: str = Field(min_length=1, max_length=64)
    mitto_connect_timeout_seconds: float = Field(5.0, gt=0, le=60)
    mitto_soft_timeout_seconds: float = Field(30.0, gt=0, le=600)
    mitto_hard_timeout_seconds: float = Field(120.0, gt=0, le=3600)
    mitto_keepalive_seconds: float = Field(4.0, gt=0, le=300)
    account_pause_seconds: float = Field(60.0, gt=0, le=3600)

    sms_batch_size: int = Field(5000, ge=1, le=10_000)
    backlog_limit: int = Field(20_000_000, ge=1)

    rate_limit_traffic_account_max: int = Field(100, ge=0)
    rate_limit_traffic_account_window_ms: int = Field(1000, ge=1)
    rate_limit_tenant_max: int = Field(50, ge=0)
    rate_limit_tenant_window_ms: int = Field(1000, ge=1)
    queue_rate_max: int = Field(0, ge=0)
    queue_rate_window_ms: int = Field(1000, ge=1)
    rate_limit_margin_ms: int = Field(25, ge=0)

    queue_attempts: int = Field(5, ge=0, le=100)
    queue_backoff: float = Field(3.0, gt=0, le=3600)
    lease_seconds: float = Field(60.0, gt=0, le=3600)
    worker_concurrency: int = Field(8, ge=1, le=256)
    ambiguity_horizon_hours: float = Field(72.0, gt=0)

    @model_validator(mode="after")
    def _lease_outlasts_the_provider(self) -> Self:
        if self.mitto_hard_timeout_seconds < self.mitto_soft_timeout_seconds:
            raise ValueError("MITTO_HARD_TIMEOUT_SECONDS must not be below MITTO_SOFT_TIMEOUT_SECONDS")
        needed = self.mitto_soft_timeout_seconds + _LEASE_MARGIN_SECONDS
        if self.lease_seconds < needed:
            raise ValueError(
                f"LEASE_SECONDS must be at least {needed:g}: {_LEASE_MARGIN_SECONDS:g} above MITTO_SOFT_TIMEOUT_SECONDS"
            )
        return self

    @property
    def lease(self) -> timedelta:
        """How long a claimed or armed batch belongs to its worker."""
        return timedelta(seconds=self.lease_seconds)

    @property
    def backoff(self) -> Backoff:
        """When what was provably not sent is tried again."""
        return Backoff(self.queue_attempts, timedelta(seconds=self.queue_backoff))

    @property
    def timeouts(self) -> Timeouts:
        """Of a provider call."""
        connect = timedelta(seconds=self.mitto_connect_timeout_seconds)
        return Timeouts(
            connect=connect,
            pool=connect,
            soft=timedelta(seconds=self.mitto_soft_timeout_seconds),
            hard=timedelta(seconds=self.mitto_hard_timeout_seconds),
        )

    @property
    def limits(self) -> Limits:
        """Without what operators changed at runtime."""
        return Limits(
            {
                LimitScope.TRAFFIC_ACCOUNT: _limit(
                    self.rate_limit_traffic_account_max, self.rate_limit_traffic_account_window_ms
                ),
                LimitScope.TENANT: _limit(self.rate_limit_tenant_max, self.rate_limit_tenant_window_ms),
                LimitScope.GLOBAL: _limit(self.queue_rate_max, self.queue_rate_window_ms),
            }
        )


def _limit(max_requests: int, window_ms: int) -> Limit:
    return Limit(max_requests, window=timedelta(milliseconds=window_ms))
