"""The services a stack is made of, written down once: module, stores, ports and environment of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from devstack.ports import LOOPBACK

WEBHOOK_PATH = "/v1/mitto/delivery-reports"
"""Where the gateway takes delivery reports."""

DLR_SECRET_HEADER = "X-Dlr-Secret"  # noqa: S105 - the header's name, not its value


@dataclass(frozen=True, slots=True)
class Service:
    """One service: `python -m <module> serve`, after `python -m <module> migrate` when it has a database."""

    name: str
    module: str
    has_database: bool = True
    has_http: bool = False

    @property
    def database(self) -> str:
        """The name of its database."""
        return self.name.replace("-", "_")


SERVICES = (
    Service("ledger", "bulksms_ledger"),
    Service("campaign", "bulksms_campaign"),
    Service("dispatcher", "bulksms_dispatcher"),
    Service("dlr-gateway", "bulksms_dlr_gateway", has_database=False, has_http=True),
)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a service needs to know of the stack around it."""

    campaign_address: str
    dispatcher_address: str
    ledger_address: str
    redis_url: str
    redis_key_prefix: str
    mitto_base_url: str
    mitto_api_key: str
    traffic_account_id: str
    dlr_secret: str
    traces_endpoint: str | None


@dataclass(frozen=True, slots=True)
class Replica:
    """One process of a service."""

    service: Service
    number: int
    grpc_port: int
    http_port: int | None
    folder: Path
    """For what it keeps on disk."""

    @property
    def name(self) -> str:
        """`ledger-0`."""
        return f"{self.service.name}-{self.number}"


def environment_of(replica: Replica, around: Surroundings, database_url: str | None) -> dict[str, str]:
    """Return the environment of one process; every variable is documented in the service's README."""
    environment = {
        "GRPC_LISTEN": f"{LOOPBACK}:{replica.grpc_port}",
        "REDIS_URL": around.redis_url,
        "REDIS_KEY_PREFIX": around.redis_key_prefix,
        "CAMPAIGN_ADDRESS": around.campaign_address,
        "DISPATCHER_ADDRESS": around.dispatcher_address,
        "LEDGER_ADDRESS": around.ledger_address,
        "LOG_LEVEL": "INFO",
        "LOG_FORMAT": "console",
        "SHUTDOWN_GRACE_SECONDS": "5",
        **_telemetry(replica, around.traces_endpoint),
    }
    if database_url is not None:
        environment["DATABASE_URL"] = database_url
    return environment | _OWN.get(replica.service.name, _nothing_more)(replica, around)


def _telemetry(replica: Replica, endpoint: str | None) -> Mapping[str, str]:
    if endpoint is None:
        return {
            "OTEL_SERVICE_NAME": replica.service.name,
            "OTEL_TRACES_EXPORTER": "none",
            "OTEL_METRICS_EXPORTER": "none",
        }
    return {
        "OTEL_SERVICE_NAME": replica.service.name,
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_INSECURE": "true",
        # Soon enough for a trace to be whole when its campaign ends; the default is 5 s.
        "OTEL_BSP_SCHEDULE_DELAY": "500",
        "OTEL_BSP_MAX_QUEUE_SIZE": "16384",
    }


def _nothing_more(_replica: Replica, _around: Surroundings) -> dict[str, str]:
    return {}


def _dispatcher(replica: Replica, around: Surroundings) -> dict[str, str]:
    return {
        "MITTO_BASE_URL": around.mitto_base_url,
        "MITTO_API_KEY": around.mitto_api_key,
        "MITTO_TRAFFIC_ACCOUNT_ID": around.traffic_account_id,
        "JOURNAL_PATH": str(replica.folder / "journal"),
    }


def _dlr_gateway(replica: Replica, around: Surroundings) -> dict[str, str]:
    return {
        "HTTP_LISTEN": f"{LOOPBACK}:{replica.http_port}",
        "DLR_SECRETS": around.dlr_secret,
        "DLR_SECRET_HEADER": DLR_SECRET_HEADER,
        "SPOOL_PATH": str(replica.folder / "spool.sqlite3"),
    }


_OWN = {"dispatcher": _dispatcher, "dlr-gateway": _dlr_gateway}
