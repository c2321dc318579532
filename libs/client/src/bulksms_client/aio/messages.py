"""Single messages: one text to one number."""

from __future__ import annotations

from collections.abc import AsyncIterator

from bulksms.dispatcher.v1 import messages_pb2 as pb
from bulksms.types.v1 import types_pb2
from bulksms_client.aio.resource import PAGE_SIZE, Resource
from bulksms_client.arguments import new_request_id

__all__ = ["Messages"]


class Messages(Resource):
    """Calls of MessageService that backends need.

    A message is named by its id, or by `external_id`: the caller's own id, which it was sent with.
    """

    async def send(
        self,
        phone: str,
        text: str,
        *,
        sender: str,
        external_id: str = "",
        message_class: types_pb2.MessageClass.ValueType = types_pb2.MESSAGE_CLASS_UNSPECIFIED,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> pb.SendMessageResponse:
        """Send one text to one number; at most once under a request id.

        The message's status is SENT, FAILED or UNCONFIRMED (it may have been sent; it is not sent again by itself).
        With an `external_id` it can be named by that from then on; one that another message has is refused.
        The deadline is 60 seconds when not given: it waits for the provider's response.
        """
        request = pb.SendMessageRequest(
            request_id=new_request_id(request_id),
            tenant_id=self._tenant_id,
            phone=phone,
            text=text,
            sender=sender,
            external_id=external_id,
            message_class=message_class,
        )
        return await self._transport.unary(request, pb.SendMessageResponse, timeout=timeout)

    async def get(
        self, message_id: str | None = None, *, external_id: str | None = None, timeout: float | None = None
    ) -> pb.Message:
        """Read a single message."""
        request = self._naming(pb.GetMessageRequest(), message_id=message_id, external_id=external_id)
        return (await self._transport.unary(request, pb.GetMessageResponse, timeout=timeout)).message

    async def list(self, *, page_size: int = PAGE_SIZE, timeout: float | None = None) -> AsyncIterator[pb.Message]:
        """The tenant's single messages, newest first; pages by itself."""
        request = pb.ListMessagesRequest(tenant_id=self._tenant_id, page_size=page_size)
        async for page in self._pages(request, pb.ListMessagesResponse, timeout=timeout):
            for message in page.messages:
                yield message

    async def refresh(
        self,
        message_id: str | None = None,
        *,
        external_id: str | None = None,
        provider_message_id: str | None = None,
        timeout: float | None = None,
    ) -> pb.RefreshMessageStatusResponse:
        """Ask the provider for a message's status now; a recipient's message has only the provider's id."""
        request = self._naming(
            pb.RefreshMessageStatusRequest(),
            message_id=message_id,
            external_id=external_id,
            provider_message_id=provider_message_id,
        )
        return await self._transport.unary(request, pb.RefreshMessageStatusResponse, timeout=timeout)
