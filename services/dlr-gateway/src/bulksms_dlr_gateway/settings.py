"""The gateway's environment."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

from pydantic import Field, SecretStr, field_validator

from bulksms_dlr_gateway.domain.retry_schedule import RetrySchedule
from bulksms_dlr_gateway.storage.spool import SpoolLimits
from servicekit.backoff import Backoff
from servicekit.settings import Address, CommaSeparatedSecrets, Endpoint, ServiceSettings, Target

MIN_SECRET_LENGTH = 16
MAX_REPORTS_PER_CALL = 5_000  # the contract's own bound on RecordDeliveryReports and RecordDeliveryEvidence

_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")


class Settings(ServiceSettings):
    """Every variable the gateway reads; README.md has them in a table."""

    service_name: ClassVar[str] = "dlr-gateway"
    distribution: ClassVar[str] = "bulksms-dlr-gateway"

    http_listen: Address = Endpoint("0.0.0.0", 8080)
    campaign_address: Target
    dispatcher_address: Target

    dlr_secrets: CommaSeparatedSecrets = Field((), validate_default=True)
    dlr_secret_header: str = "X-Dlr-Secret"  # noqa: S105 - a name, no secret

    http_max_body_bytes: int = Field(1024 * 1024, ge=1024, le=16 * 1024 * 1024)
    http_max_connections: int = Field(2_000, ge=1)
    http_head_timeout_seconds: float = Field(10, gt=0)
    http_body_timeout_seconds: float = Field(20, gt=0)
    http_idle_timeout_seconds: float = Field(65, gt=0)  # above the usual 60 s of load balancers: they close first

    spool_path: Path
    spool_max_bytes: int = Field(4 * 1024**3, ge=1024 * 1024)
    spool_min_free_bytes: int = Field(256 * 1024**2, ge=0)
    spool_max_queued: int = Field(50_000, ge=1)
    quarantine_max_reports: int = Field(100_000, ge=1)
    quarantine_max_age_seconds: float = Field(30 * 86_400, gt=0)

    forward_batch_size: int = Field(1_000, ge=1, le=MAX_REPORTS_PER_CALL)
    forward_in_flight: int = Field(4, ge=1, le=64)
    forward_linger_seconds: float = Field(0.05, ge=0, le=5)
    forward_timeout_seconds: float = Field(10, gt=0)
    retry_first_seconds: float = Field(0.5, gt=0)
    retry_max_seconds: float = Field(30, gt=0)
    unknown_horizon_seconds: float = Field(600, gt=0)
    evidence_after_seconds: float = Field(5, ge=0)

    @field_validator("dlr_secrets")
    @classmethod
    def _usable(cls, secrets: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        if not 1 <= len(secrets) <= 2:
            raise ValueError(
                f"it must hold one secret, or two during a rotation, separated by a comma; {len(secrets)} found. "
                "Without one anybody could forge delivery reports. Make one with `openssl rand -hex 32` and have "
                "Mitto send it as a custom header of the webhook"
            )
        for secret in secrets:
            value = secret.get_secret_value()
            if len(value) < MIN_SECRET_LENGTH or not value.isascii() or not value.isprintable() or " " in value:
                raise ValueError(
                    f"each secret must have at least {MIN_SECRET_LENGTH} visible ASCII characters: "
                    "make one with `openssl rand -hex 32`"
                )
        return secrets

    @field_validator("dlr_secret_header")
    @classmethod
    def _header_name(cls, name: str) -> str:
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError("it must be the name of an HTTP header, for example X-Dlr-Secret")
        return name

    @property
    def retry_schedule(self) -> RetrySchedule:
        """When what campaign does not know is asked for again, and when that ends."""
        return RetrySchedule(
            Backoff(timedelta(seconds=self.retry_first_seconds), longest=timedelta(seconds=self.retry_max_seconds)),
            evidence_after=timedelta(seconds=self.evidence_after_seconds),
            horizon=timedelta(seconds=self.unknown_horizon_seconds),
        )

    @property
    def spool_limits(self) -> SpoolLimits:
        """What the spool may hold."""
        return SpoolLimits(
            max_queued=self.spool_max_queued,
            max_bytes=self.spool_max_bytes,
            min_free_bytes=self.spool_min_free_bytes,
            quarantine_max_reports=self.quarantine_max_reports,
            quarantine_max_age=timedelta(seconds=self.quarantine_max_age_seconds),
        )
