"""The client: one object that knows where the services are and whose tenant it speaks for."""

# Made by make_sync.py from aio/client.py: change that one.

from __future__ import annotations

from types import TracebackType
from typing import Self

from bulksms_client.options import TlsOptions, resolve_options
from bulksms_client.sync.campaigns import Campaigns
from bulksms_client.sync.contacts import Contacts
from bulksms_client.sync.credits import Credits
from bulksms_client.sync.messages import Messages
from bulksms_client.sync.queue import Queue
from bulksms_client.sync.transport import Transport

__all__ = ["Client"]


class Client:
    """Calls to bulksms, grouped: `campaigns`, `contacts`, `credits`, `messages`, `queue`.

    What is not given comes from the environment (BULKSMS_CAMPAIGN, BULKSMS_LEDGER, BULKSMS_DISPATCHER,
    BULKSMS_TENANT, BULKSMS_TIMEOUT, BULKSMS_TLS_CA, …) or the TOML file that BULKSMS_CONFIG names. Channels open at
    the first call that needs them, so only the addresses in use are needed. `timeout` is the deadline of one call in
    seconds, all its retries included (10 when not given).
    """

    def __init__(
        self,
        *,
        campaign: str | None = None,
        ledger: str | None = None,
        dispatcher: str | None = None,
        tenant_id: str | None = None,
        timeout: float | None = None,
        tls: TlsOptions | None = None,
    ) -> None:
        options = resolve_options(
            campaign=campaign, ledger=ledger, dispatcher=dispatcher, tenant_id=tenant_id, timeout=timeout, tls=tls
        )
        self._bind(Transport(options), options.tenant_id)

    def for_tenant(self, tenant_id: str) -> Client:
        """The same channels, another tenant; closing either closes both."""
        other = object.__new__(Client)
        other._bind(self._transport, tenant_id)
        return other

    def close(self) -> None:
        """Close the channels; calls under way are cancelled."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _bind(self, transport: Transport, tenant_id: str) -> None:
        self._transport = transport
        self.tenant_id = tenant_id
        self.campaigns = Campaigns(transport, tenant_id)
        self.contacts = Contacts(transport, tenant_id)
        self.credits = Credits(transport, tenant_id)
        self.messages = Messages(transport, tenant_id)
        self.queue = Queue(transport, tenant_id)
