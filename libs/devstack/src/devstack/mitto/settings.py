"""The simulator's settings, from the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from devstack.mitto.webhook import WebhookAddress


class SettingsError(ValueError):
    """A setting is missing or unusable; the text names it and the cure."""


@dataclass(frozen=True, slots=True)
class SimulatorSettings:
    """What a simulator is started with."""

    host: str
    port: int
    log_path: Path
    report_url: str = ""
    report_headers: dict[str, str] | None = None
    api_key: str = ""
    seed: int = 0
    remembered_requests: int = 200_000
    """Accepted requests that can still be asked for by message id; about 1.5 kB each."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> SimulatorSettings:
        """Read SIMULATOR_LISTEN, _LOG, _REPORT_URL, _REPORT_HEADERS, _API_KEY, _SEED. Raises SettingsError."""
        host, _, port = environment.get("SIMULATOR_LISTEN", "127.0.0.1:8025").rpartition(":")
        if not host or not port.isdecimal() or int(port) > 65535:
            raise SettingsError("SIMULATOR_LISTEN: expected host:port, for instance 127.0.0.1:8025")
        log = environment.get("SIMULATOR_LOG", "")
        if not log:
            raise SettingsError("SIMULATOR_LOG: set it to the path of the accepted log")
        url = environment.get("SIMULATOR_REPORT_URL", "")
        headers = _headers(environment.get("SIMULATOR_REPORT_HEADERS", "") or "{}")
        if url:
            try:
                WebhookAddress.parse(url).head(headers)
            except ValueError as error:
                raise SettingsError(f"SIMULATOR_REPORT_URL: {error}") from None
        seed = environment.get("SIMULATOR_SEED", "") or "0"
        if not seed.lstrip("-").isdecimal():
            raise SettingsError("SIMULATOR_SEED: expected a whole number")
        return cls(
            host=host.strip("[]"),
            port=int(port),
            log_path=Path(log),
            report_url=url,
            report_headers=headers,
            api_key=environment.get("SIMULATOR_API_KEY", ""),
            seed=int(seed),
        )


def _headers(text: str) -> dict[str, str]:
    try:
        return msgspec.json.decode(text, type=dict[str, str])
    except msgspec.DecodeError as error:
        # The value is a secret: the error must not repeat it.
        raise SettingsError(f"SIMULATOR_REPORT_HEADERS: expected a JSON object of texts ({error})") from None
