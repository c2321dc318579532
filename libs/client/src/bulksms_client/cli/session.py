"""What all commands of one invocation share: the client, the tenant, and where output goes."""

from __future__ import annotations

import getpass
from typing import cast

import typer

from bulksms_client.cli.output import Output
from bulksms_client.options import TlsOptions, resolve_options
from bulksms_client.sync.client import Client

__all__ = ["Session", "session_of"]


class Session:
    """One invocation of the command. The client is made at first use, so that `--help` needs no address."""

    def __init__(
        self,
        output: Output,
        *,
        tenant: str | None,
        addresses: dict[str, str | None],
        tls: TlsOptions | None,
        timeout: float | None,
    ) -> None:
        self.output = output
        self._tenant = tenant
        self._addresses = addresses
        self._tls = tls
        self._timeout = timeout
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """The client. Raises ConfigurationError when a setting cannot be used."""
        if self._client is None:
            self._client = Client(
                campaign=self._addresses["campaign"],
                ledger=self._addresses["ledger"],
                dispatcher=self._addresses["dispatcher"],
                tenant_id=self._tenant,
                tls=self._tls,
                timeout=self._timeout,
                operator=resolve_options().operator or _login(),
            )
        return self._client

    def close(self) -> None:
        """Close the client's channels."""
        if self._client is not None:
            self._client.close()


def session_of(context: typer.Context) -> Session:
    """The session the root command made."""
    return cast("Session", context.obj)


def _login() -> str:
    """Who is logged in here, as far as the machine knows."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as in some containers
        return ""
