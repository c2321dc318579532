"""The client: one object that knows where the services are and whose tenant it speaks for."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from bulksms_client.aio.campaigns import Campaigns
from bulksms_client.aio.contacts import Contacts
from bulksms_client.aio.credits import Credits
from bulksms_client.aio.messages import Messages
from bulksms_client.aio.queue import Queue
from bulksms_client.asyncio_transport import Transport
from bulksms_client.options import TlsOptions, resolve_options

__all__ = ["AsyncClient"]


class AsyncClient:
    """Calls to bulksms, grouped: `campaigns`, `contacts`, `credits`, `messages`, `queue`.

    What is not given comes from the environment (BULKSMS_CAMPAIGN, BULKSMS_LEDGER, BULKSMS_DISPATCHER,
    BULKSMS_TENANT, BULKSMS_TIMEOUT, BULKSMS_TLS_CA, …) or the TOML file that BULKSMS_CONFIG names. Channels open at
    the first call that needs them, so only the addresses in use are needed. `timeout` is the deadline of one call in
    seconds, all its retries included (10 when not given). `operator` says who acts, where operators' actions are kept.
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
        operator: str | None = None,
    ) -> None:
        options = resolve_options(
            campaign=campaign,
            ledger=ledger,
            dispatcher=dispatcher,
            tenant_id=tenant_id,
            timeout=timeout,
            tls=tls,
            operator=operator,
        )
        self._bind(Transport(options), options.tenant_id)

    def for_tenant(self, tenant_id: str) -> AsyncClient:
        """The same channels, another tenant; closing either closes both."""
        other = object.__new__(AsyncClient)
        other._bind(self._transport, tenant_id)
        return other

    async def close(self) -> None:
        """Close the channels; calls under way are cancelled."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def _bind(self, transport: Transport, tenant_id: str) -> None:
        self._transport = transport
        self.tenant_id = tenant_id
        self.campaigns = Campaigns(transport, tenant_id)
        self.contacts = Contacts(transport, tenant_id)
        self.credits = Credits(transport, tenant_id)
        self.messages = Messages(transport, tenant_id)
        self.queue = Queue(transport, tenant_id)
