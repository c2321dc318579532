"""What every group of calls has: the transport, the tenant, and lists that page by themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TypeVar

from google.protobuf.message import Message

from bulksms_client.arguments import naming
from bulksms_client.asyncio_transport import Transport
from bulksms_client.errors import ConfigurationError, Internal

__all__ = ["PAGE_SIZE", "RequestT", "Resource"]

# Whole lists are read in large pages: fewer calls, and still well below the message limit.
PAGE_SIZE = 500

PageT = TypeVar("PageT", bound=Message)
RequestT = TypeVar("RequestT", bound=Message)


class Resource:
    """A group of calls of one tenant."""

    def __init__(self, transport: Transport, tenant_id: str) -> None:
        self._transport = transport
        self._tenant = tenant_id

    @property
    def _tenant_id(self) -> str:
        if not self._tenant:
            raise ConfigurationError("the tenant is not known: set BULKSMS_TENANT (or Client(tenant_id=…), --tenant)")
        return self._tenant

    def _naming(self, request: RequestT, **ids: str | None) -> RequestT:
        """A request of this tenant about what is named by one of several ids: ours first, then the caller's own."""
        request.tenant_id = self._tenant_id  # type: ignore[attr-defined]  # every such request has one
        return naming(request, **ids)

    async def _pages(self, request: Message, page_type: type[PageT], *, timeout: float | None) -> AsyncIterator[PageT]:
        """Every page of a list; the deadline is each page's own."""
        token = ""
        while True:
            request.page_token = token  # type: ignore[attr-defined]  # every list request has one
            page = await self._transport.unary(request, page_type, timeout=timeout)
            yield page
            following: str = page.next_page_token  # type: ignore[attr-defined]  # and every page
            if not following:
                return
            if following == token:  # or it would never end
                raise Internal(f"{page_type.__name__} names itself as its next page", reason="PAGE_TOKEN_REPEATED")
            token = following
