"""The environment every service understands, read once, typed and frozen."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import timedelta
from importlib import metadata
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

__all__ = [
    "Address",
    "CommaSeparated",
    "CommaSeparatedSecrets",
    "Endpoint",
    "ServiceSettings",
    "SettingsError",
    "Target",
    "load",
    "old_names_in_use",
    "parse_listen",
]

S = TypeVar("S", bound="ServiceSettings")

_HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}"
_TARGET = re.compile(rf"(?:dns:(?://[^/]*/)?)?{_HOST}|ipv[46]:{_HOST}(?:,{_HOST})*|unix:.+")


class SettingsError(Exception):
    """The environment is unusable; the message names each variable and the cure, and holds no value of a secret."""


class Endpoint(NamedTuple):
    """A host and a port; `str()` gives `host:port` again, with brackets around an IPv6 host."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_listen(value: str | Endpoint) -> Endpoint:
    """`host:port`, `[::1]:port` or `:port` (every interface); port 0 lets the system choose one."""
    if isinstance(value, tuple):
        return Endpoint(*value)
    host, separator, port = value.strip().rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not separator or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ValueError("must be host:port, for example 0.0.0.0:50051")
    return Endpoint(host or "0.0.0.0", int(port))


def _split_commas(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Address = Annotated[Endpoint, NoDecode, BeforeValidator(parse_listen)]
"""Type of a setting written `host:port`; its default is an `Endpoint(host, port)`."""


def _target(value: str) -> str:
    # gRPC takes a missing port for 443 and a misspelt scheme for a host: both would only show at the first call.
    if not _TARGET.fullmatch(value):
        raise ValueError("must be a gRPC target: host:port, dns:///name:port or ipv4:host:port,host:port")
    return value


Target = Annotated[str, AfterValidator(_target)]
"""Type of a setting that says where a peer is. It has no default: a wrong one would be silent."""

CommaSeparated = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_commas)]
"""Type of a setting written `one,two`."""

CommaSeparatedSecrets = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_split_commas)]
"""As `CommaSeparated`, for values that must not be seen."""


class ServiceSettings(BaseSettings):
    """Common to all services; a service subclasses it and adds its own fields. Field `x_y` is the variable `X_Y`."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    service_name: ClassVar[str] = "service"
    """Default of OTEL_SERVICE_NAME."""
    distribution: ClassVar[str | None] = None
    """The installed distribution that `service_version` is read from."""
    old_names: ClassVar[Mapping[str, str]] = {}
    """Old variables that go on working, and what each is called now; where both are set the new one counts."""

    grpc_listen: Address = Endpoint("0.0.0.0", 50051)
    grpc_max_concurrent_rpcs: int = Field(1000, ge=1)
    grpc_max_connection_age_seconds: float = Field(300.0, ge=0, le=86_400)
    grpc_max_connection_age_grace_seconds: float = Field(960.0, gt=0, le=86_400)
    database_url: SecretStr | None = None
    database_pool_size: int = Field(10, ge=1, le=1000)
    redis_url: SecretStr | None = None
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["json", "console"] = "json"
    otel_service_name: str = ""
    otel_exporter_otlp_endpoint: str = ""
    otel_traces_exporter: Literal["otlp", "none"] = "otlp"
    otel_metrics_exporter: Literal["otlp", "none"] = "otlp"
    shutdown_grace_seconds: float = Field(20.0, ge=0, le=3600)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Where values come from, the first that has one counts."""
        del dotenv_settings, file_secret_settings  # a process has its environment and nothing else
        return init_settings, env_settings, _OldNames(settings_cls, cls.old_names)

    @property
    def name(self) -> str:
        """What the process calls itself in logs and traces."""
        return self.otel_service_name or type(self).service_name

    @property
    def service_version(self) -> str:
        """Version of the installed distribution; `unknown` when it is not installed."""
        try:
            return metadata.version(type(self).distribution or "")
        except (metadata.PackageNotFoundError, ValueError):
            return "unknown"

    @property
    def shutdown_grace(self) -> timedelta:
        """How long calls and workers in progress may take to end after SIGTERM."""
        return timedelta(seconds=self.shutdown_grace_seconds)


class _OldNames(EnvSettingsSource):
    """The variables with old names, read as if they had the new ones."""

    def __init__(self, settings_type: type[BaseSettings], old_names: Mapping[str, str]) -> None:
        super().__init__(settings_type)
        present = {old.lower(): new.lower() for old, new in old_names.items() if old.lower() in self.env_vars}
        self.env_vars = {new: self.env_vars[old] for old, new in present.items()}


def load(settings_type: type[S], **overrides: Any) -> S:
    """Read the environment; `SettingsError` lists every wrong variable at once."""
    try:
        return settings_type(**overrides)
    except ValidationError as error:
        raise SettingsError(_explain(error, settings_type)) from None


def old_names_in_use(settings_type: type[ServiceSettings]) -> list[str]:
    """A sentence about each variable that is set under its old name, to be logged at the start."""
    return [
        f"{old} is now {new}" + (", which is set too and counts" if _is_set(new) else ": rename it")
        for old, new in settings_type.old_names.items()
        if _is_set(old)
    ]


def _is_set(variable: str) -> bool:
    return any(name.upper() == variable for name in os.environ)


def _explain(error: ValidationError, settings_type: type[ServiceSettings]) -> str:
    lines = []
    old_of = {new: old for old, new in settings_type.old_names.items() if _is_set(old) and not _is_set(new)}
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        variable = str(problem["loc"][0]).upper() if problem["loc"] else "environment"
        variable = old_of.get(variable, variable)
        if problem["type"] == "missing":
            lines.append(f"{variable} is not set: it is required, set it in the environment")
        else:
            lines.append(f"{variable} is wrong: {problem['msg'].removeprefix('Value error, ')}")
    return "; ".join(lines)
