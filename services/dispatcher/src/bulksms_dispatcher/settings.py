"""The dispatcher's environment."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from bulksms_dispatcher.domain.account_holds import HoldRules
from bulksms_dispatcher.domain.provider_outcomes import Promises
from bulksms_dispatcher.domain.rate_limits import Limit, Limits, LimitScope, Slowdown
from bulksms_dispatcher.domain.report_refreshes import RefreshSchedule
from bulksms_dispatcher.domain.retries import RetryPolicy
from bulksms_dispatcher.providers.mitto import Timeouts
from bulksms_dispatcher.use_cases.batch_sizes import BatchSizeRange
from servicekit.backoff import Backoff
from servicekit.settings import CommaSeparated, ServiceSettings, Target

__all__ = ["Settings"]

# What an armed batch needs beyond the provider's response: marking it late, and a pause of the process.
_LEASE_MARGIN_SECONDS = 10.0

# Of a limit: 0 lets nothing through.
MaxRequests = Annotated[int, Field(ge=0)] | Literal["unlimited"]


class Settings(ServiceSettings):
    """Field `x_y` is the variable `X_Y`; the README has the table."""

    service_name: ClassVar[str] = "dispatcher"
    distribution: ClassVar[str] = "bulksms-dispatcher"
    old_names: ClassVar[dict[str, str]] = {
        "QUEUE_ATTEMPTS": "QUEUE_MAX_RETRIES",
        "QUEUE_RATE_DURATION_MS": "QUEUE_RATE_WINDOW_MS",
        "RATE_LIMIT_MARGIN_MS": "RATE_LIMIT_ARRIVAL_GRACE_MS",
    }

    database_url: SecretStr
    redis_url: SecretStr
    redis_key_prefix: str = "bulksms:"
    campaign_address: Target
    ledger_address: Target

    mitto_base_url: str = Field("https://messaging.mittoapi.com", pattern=r"^https?://[^/?#]+(/[^?#]*)?$")
    mitto_api_key: SecretStr
    mitto_traffic_account_id: str = Field(min_length=1, max_length=64)
    mitto_connect_timeout_seconds: float = Field(5.0, gt=0, le=60)
    mitto_soft_timeout_seconds: float = Field(30.0, gt=0, le=600)
    mitto_hard_timeout_seconds: float = Field(120.0, gt=0, le=3600)
    mitto_keepalive_seconds: float = Field(4.0, gt=0, le=300)
    account_pause_seconds: float = Field(60.0, gt=0, le=3600)
    probe_after_seconds: float = Field(1.0, gt=0, le=300)
    probe_after_max_seconds: float = Field(300.0, gt=0, le=3600)
    provider_outage_patience_hours: float = Field(6.0, gt=0, le=720)
    provider_not_accepted_statuses: CommaSeparated = ()
    provider_refuses_whole_on_400: bool = False
    provider_ids_carry_time: bool = False

    sms_batch_size: Annotated[int, Field(ge=1, le=10_000)] | Literal["auto"] = 5000
    sms_batch_size_min: int = Field(100, ge=1, le=10_000)
    sms_batch_size_max: int = Field(5000, ge=1, le=10_000)
    use_bulk_sms: bool = True
    message_validity_seconds: float = Field(600.0, gt=0, le=86_400)
    backlog_limit: int = Field(20_000_000, ge=1)

    rate_limit_traffic_account_max: MaxRequests = 100
    rate_limit_traffic_account_window_ms: int = Field(1000, ge=1)
    rate_limit_tenant_max: MaxRequests = 50
    rate_limit_tenant_window_ms: int = Field(1000, ge=1)
    queue_rate_max: MaxRequests = "unlimited"
    queue_rate_window_ms: int = Field(1000, ge=1)
    rate_limit_arrival_grace_ms: int = Field(40, ge=0, le=4000)

    rate_limit_slowdown_seconds: float = Field(10.0, ge=0, le=3600)
    rate_limit_recovery_seconds: float = Field(60.0, gt=0, le=3600)

    status_refresh_max: int = Field(20, ge=0, le=10_000)
    status_refresh_after_seconds: str = Field("30,120,300", pattern=r"^[0-9.]+(,[0-9.]+)*$")
    status_refresh_horizon_hours: float = Field(72.0, gt=0)

    queue_max_retries: int = Field(5, ge=0, le=100)
    queue_backoff: float = Field(3.0, gt=0, le=3600)
    lease_seconds: float = Field(60.0, gt=0, le=3600)
    worker_concurrency: int = Field(8, ge=1, le=256)
    retryable_rejections: CommaSeparated = ()
    retention_days: float = Field(90.0, ge=0)
    deferred_recheck_seconds: float = Field(30.0, gt=0, le=3600)
    journal_path: Path = Path("/var/lib/bulksms/journal")
    ambiguity_horizon_hours: float = Field(72.0, gt=0)
    evidence_window_seconds: float = Field(300.0, gt=0, le=86_400)

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

    @model_validator(mode="after")
    def _probes_are_in_order(self) -> Self:
        if self.probe_after_max_seconds < self.probe_after_seconds:
            raise ValueError("PROBE_AFTER_MAX_SECONDS must not be below PROBE_AFTER_SECONDS")
        return self

    @field_validator("provider_not_accepted_statuses")
    @classmethod
    def _statuses_are_of_errors(cls, statuses: tuple[str, ...]) -> tuple[str, ...]:
        if not all(re.fullmatch("[45][0-9][0-9]", status) for status in statuses):
            raise ValueError("PROVIDER_NOT_ACCEPTED_STATUSES must be HTTP statuses from 400 to 599, such as 502,503")
        return statuses

    @model_validator(mode="after")
    def _sizes_are_in_order(self) -> Self:
        if self.sms_batch_size_min > self.sms_batch_size_max:
            raise ValueError("SMS_BATCH_SIZE_MIN must not be above SMS_BATCH_SIZE_MAX")
        return self

    @model_validator(mode="after")
    def _refreshes_come_in_order(self) -> Self:
        try:
            times = [float(seconds) for seconds in self.status_refresh_after_seconds.split(",")]
        except ValueError:
            times = [0.0]
        if times[0] <= 0 or times != sorted(set(times)):
            raise ValueError("STATUS_REFRESH_AFTER_SECONDS must be growing numbers of seconds, such as 30,120,300")
        return self

    @property
    def lease(self) -> timedelta:
        """How long a claimed or armed batch belongs to its worker."""
        return timedelta(seconds=self.lease_seconds)

    @property
    def batch_sizes(self) -> BatchSizeRange:
        """Recipients of a batch: a batch is one provider request, so one recipient where there is no bulk."""
        if not self.use_bulk_sms:
            return BatchSizeRange.fixed(1)
        if self.sms_batch_size != "auto":
            return BatchSizeRange.fixed(self.sms_batch_size)
        min_size, max_size = self.sms_batch_size_min, self.sms_batch_size_max
        return BatchSizeRange(
            min_size,
            max_size,
            start=max(min_size, max_size // 5),
            step=max(1, max_size // 20),
            quick=timedelta(seconds=self.mitto_soft_timeout_seconds / 4),
        )

    @property
    def retry_policy(self) -> RetryPolicy:
        """When what was provably not sent is attempted again."""
        return RetryPolicy(self.queue_max_retries, Backoff(timedelta(seconds=self.queue_backoff)))

    @property
    def hold_rules(self) -> HoldRules:
        """When a held account is probed."""
        return HoldRules(
            Backoff(
                timedelta(seconds=self.probe_after_seconds), longest=timedelta(seconds=self.probe_after_max_seconds)
            ),
            timedelta(seconds=self.account_pause_seconds),
        )

    @property
    def promises(self) -> Promises:
        """What the provider has promised beyond what is known of it."""
        statuses = frozenset(int(status) for status in self.provider_not_accepted_statuses)
        return Promises(statuses, self.provider_refuses_whole_on_400)

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
    def deferred_recheck(self) -> timedelta:
        """How often deferred recipients are looked at again."""
        return timedelta(seconds=self.deferred_recheck_seconds)

    @property
    def retention(self) -> timedelta:
        """How long final batches are kept."""
        return timedelta(days=self.retention_days)

    @property
    def slowdown(self) -> Slowdown:
        """What a 429 does to the account's limits."""
        return Slowdown(
            timedelta(seconds=self.rate_limit_slowdown_seconds), timedelta(seconds=self.rate_limit_recovery_seconds)
        )

    @property
    def refresh_schedule(self) -> RefreshSchedule:
        """When the provider is asked about messages without a final report."""
        times = self.status_refresh_after_seconds.split(",")
        return RefreshSchedule(
            tuple(timedelta(seconds=float(seconds)) for seconds in times),
            horizon=timedelta(hours=self.status_refresh_horizon_hours),
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


def _limit(max_requests: MaxRequests, window_ms: int) -> Limit:
    return Limit(None if max_requests == "unlimited" else max_requests, window=timedelta(milliseconds=window_ms))
