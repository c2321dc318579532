"""Where the services are and how to reach them: from arguments, the environment, or a TOML file."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import grpc

from bulksms_client.calls import PEERS
from bulksms_client.errors import ConfigurationError

__all__ = ["ClientOptions", "TlsOptions", "resolve_options"]

DEFAULT_TIMEOUT_SECONDS = 10.0

# Setting in the TOML file → environment variable.
_VARIABLES = {
    "campaign": "BULKSMS_CAMPAIGN",
    "ledger": "BULKSMS_LEDGER",
    "dispatcher": "BULKSMS_DISPATCHER",
    "tenant": "BULKSMS_TENANT",
    "timeout": "BULKSMS_TIMEOUT",
    "operator": "BULKSMS_OPERATOR",
    "tls_ca": "BULKSMS_TLS_CA",
    "tls_cert": "BULKSMS_TLS_CERT",
    "tls_key": "BULKSMS_TLS_KEY",
    "tls_server_name": "BULKSMS_TLS_SERVER_NAME",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsOptions:
    """Encrypted channels.

    `ca`: PEM file of the authority that signed the services' certificates; None: the public ones gRPC comes with.
    `cert` and `key`: PEM files of this client's own certificate, for mutual TLS. `server_name`: the name the
    services' certificate is for, when it is not the address's (a port-forward, an IP address).
    """

    ca: Path | str | None = None
    cert: Path | str | None = None
    key: Path | str | None = None
    server_name: str = ""

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads the files. Raises ConfigurationError naming the file that cannot be used."""
        if (self.cert is None) != (self.key is None):
            raise ConfigurationError(
                "mutual TLS needs both a certificate and its key (BULKSMS_TLS_CERT, BULKSMS_TLS_KEY)"
            )
        return grpc.ssl_channel_credentials(
            root_certificates=_pem(self.ca), private_key=_pem(self.key), certificate_chain=_pem(self.cert)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """Everything a client needs to know; addresses are `host:port` or any gRPC target."""

    addresses: Mapping[str, str]
    tenant_id: str
    timeout_seconds: float
    tls: TlsOptions | None
    operator: str = ""
    """Who acts, for the audit of what operators do; empty: the services know the caller's address only."""

    @property
    def identity(self) -> tuple[tuple[str, str], ...]:
        """As call metadata, which takes ASCII only."""
        name = "".join(letter if " " <= letter <= "~" else "?" for letter in self.operator).strip()
        return (("x-operator", name),) if name else ()

    def address(self, peer: str) -> str:
        """The address of a service. Raises ConfigurationError when none was given."""
        address = self.addresses.get(peer, "")
        if not address:
            raise ConfigurationError(
                f"the address of the {peer} service is not known: set BULKSMS_{peer.upper()}=host:port "
                f"(or Client({peer}=…), or --{peer}-address)"
            )
        return address


def resolve_options(
    *,
    campaign: str | None = None,
    ledger: str | None = None,
    dispatcher: str | None = None,
    tenant_id: str | None = None,
    timeout: float | None = None,
    tls: TlsOptions | None = None,
    operator: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> ClientOptions:
    """Options from arguments, else the environment's BULKSMS_* variables, else the file that BULKSMS_CONFIG names."""
    settings = _settings(os.environ if environment is None else environment)
    given = {"campaign": campaign, "ledger": ledger, "dispatcher": dispatcher}
    return ClientOptions(
        addresses={peer: given[peer] or settings.get(peer, "") for peer in PEERS},
        tenant_id=tenant_id or settings.get("tenant", ""),
        timeout_seconds=_timeout(settings.get("timeout", "")) if timeout is None else timeout,
        tls=tls or _tls(settings),
        operator=operator or settings.get("operator", ""),
    )


def _settings(environment: Mapping[str, str]) -> dict[str, str]:
    settings = _file_settings(environment.get("BULKSMS_CONFIG", ""))
    settings.update({name: environment[variable] for name, variable in _VARIABLES.items() if environment.get(variable)})
    return settings


def _file_settings(name: str) -> dict[str, str]:
    if not name:
        return {}
    try:
        with Path(name).open("rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise ConfigurationError(f"BULKSMS_CONFIG names {name}, which cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"BULKSMS_CONFIG names {name}, which is not TOML: {error}") from error
    unknown = sorted(set(document) - set(_VARIABLES))
    if unknown:
        raise ConfigurationError(f"{name}: unknown setting {unknown[0]!r}; known are {', '.join(_VARIABLES)}")
    return {key: str(value) for key, value in document.items()}


def _timeout(text: str) -> float:
    try:
        seconds = float(text) if text else DEFAULT_TIMEOUT_SECONDS
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigurationError(f"BULKSMS_TIMEOUT must be a number of seconds above 0, not {text!r}")
    return seconds


def _tls(settings: Mapping[str, str]) -> TlsOptions | None:
    ca, cert, key = settings.get("tls_ca"), settings.get("tls_cert"), settings.get("tls_key")
    if not (ca or cert or key):
        return None
    return TlsOptions(
        ca=None if ca == "public" else ca, cert=cert, key=key, server_name=settings.get("tls_server_name", "")
    )


def _pem(path: Path | str | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(f"TLS: {path} cannot be read: {error.strerror}") from error
