"""Campaigns: write, send and steer them; what is read of them is in `campaign_views`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from bulksms.campaign.v1 import campaign_pb2 as pb
from bulksms.types.v1 import types_pb2
from bulksms_client.aio.campaign_views import CampaignViews
from bulksms_client.arguments import audience, new_request_id, timestamp

__all__ = ["Campaigns"]


class Campaigns(CampaignViews):
    """Calls of CampaignService. Mutations are idempotent by `request_id`, which is made up when not given.

    A campaign is named by its id, or by `external_id`: the caller's own id, which it was created with.
    """

    async def create(
        self,
        *,
        name: str,
        text: str,
        sender: str,
        groups: Iterable[str] = (),
        all_contacts: bool = False,
        exclude_groups: Iterable[str] = (),
        priority: types_pb2.Priority.ValueType = types_pb2.PRIORITY_UNSPECIFIED,
        message_class: types_pb2.MessageClass.ValueType = types_pb2.MESSAGE_CLASS_UNSPECIFIED,
        not_after: datetime | None = None,
        external_id: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> pb.Campaign:
        """Make a draft for the contacts of `groups`, or for all contacts, without those of `exclude_groups`.

        With an `external_id` it can be named by that from then on; one that another campaign has is refused. What is
        not sent by `not_after` never is.
        """
        request = pb.CreateCampaignRequest(
            request_id=new_request_id(request_id),
            tenant_id=self._tenant_id,
            name=name,
            text=text,
            sender=sender,
            audience=audience(groups, all_contacts=all_contacts, exclude_groups=exclude_groups),
            priority=priority,
            message_class=message_class,
            not_after=timestamp("not_after", not_after),
            external_id=external_id,
        )
        return (await self._transport.unary(request, pb.CreateCampaignResponse, timeout=timeout)).campaign

    async def update(
        self,
        campaign_id: str | None = None,
        *,
        external_id: str | None = None,
        name: str | None = None,
        text: str | None = None,
        sender: str | None = None,
        groups: Iterable[str] | None = None,
        all_contacts: bool = False,
        exclude_groups: Iterable[str] = (),
        priority: types_pb2.Priority.ValueType = types_pb2.PRIORITY_UNSPECIFIED,
        message_class: types_pb2.MessageClass.ValueType = types_pb2.MESSAGE_CLASS_UNSPECIFIED,
        not_after: datetime | None = None,
        etag: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> pb.Campaign:
        """Change a campaign that was not enqueued yet. What is not given stays; the audience changes as a whole.

        With the `etag` that a campaign was read with, a change of somebody else's meanwhile is a Conflict.
        """
        changes_audience = groups is not None or all_contacts
        request = self._named(
            pb.UpdateCampaignRequest(
                request_id=new_request_id(request_id),
                name=name,
                text=text,
                sender=sender,
                audience=audience(groups or (), all_contacts=all_contacts, exclude_groups=exclude_groups)
                if changes_audience
                else None,
                priority=priority,
                message_class=message_class,
                not_after=timestamp("not_after", not_after),
                etag=etag,
            ),
            campaign_id,
            external_id,
        )
        return (await self._transport.unary(request, pb.UpdateCampaignResponse, timeout=timeout)).campaign

    async def delete(
        self,
        campaign_id: str | None = None,
        *,
        external_id: str | None = None,
        etag: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> bool:
        """Delete a draft; False when there was none."""
        request = self._named(
            pb.DeleteCampaignRequest(request_id=new_request_id(request_id), etag=etag), campaign_id, external_id
        )
        return (await self._transport.unary(request, pb.DeleteCampaignResponse, timeout=timeout)).deleted

    async def enqueue(
        self,
        campaign_id: str | None = None,
        *,
        external_id: str | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> pb.EnqueueCampaignResponse:
        """Reserve the credits and start sending; a refusal leaves the campaign as it was."""
        request = self._named(
            pb.EnqueueCampaignRequest(request_id=new_request_id(request_id)), campaign_id, external_id
        )
        return await self._transport.unary(request, pb.EnqueueCampaignResponse, timeout=timeout)

    async def schedule(
        self,
        campaign_id: str | None = None,
        *,
        at: datetime,
        external_id: str | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> pb.Campaign:
        """Have a draft enqueued by itself at a time (with a time zone)."""
        return await self._schedule(campaign_id, external_id, at, request_id, timeout)

    async def unschedule(
        self,
        campaign_id: str | None = None,
        *,
        external_id: str | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> pb.Campaign:
        """Make a scheduled campaign a draft again."""
        return await self._schedule(campaign_id, external_id, None, request_id, timeout)

    async def pause(
        self,
        campaign_id: str | None = None,
        *,
        external_id: str | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> pb.Campaign:
        """Stop new sends within a second."""
        request = self._named(pb.PauseCampaignRequest(request_id=new_request_id(request_id)), campaign_id, external_id)
        return (await self._transport.unary(request, pb.PauseCampaignResponse, timeout=timeout)).campaign

    async def resume(
        self,
        campaign_id: str | None = None,
        *,
        external_id: str | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> pb.Campaign:
        """Go on with a paused campaign."""
        request = self._named(pb.ResumeCampaignRequest(request_id=new_request_id(request_id)), campaign_id, external_id)
        return (await self._transport.unary(request, pb.ResumeCampaignResponse, timeout=timeout)).campaign

    async def cancel(
        self,
        campaign_id: str | None = None,
        *,
        external_id: str | None = None,
        reason: str = "",
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> pb.Campaign:
        """Stop a campaign for good; what was not sent is cancelled and its credits released."""
        request = self._named(
            pb.CancelCampaignRequest(request_id=new_request_id(request_id), reason=reason), campaign_id, external_id
        )
        return (await self._transport.unary(request, pb.CancelCampaignResponse, timeout=timeout)).campaign

    async def retry_failed(
        self,
        campaign_id: str | None = None,
        *,
        external_id: str | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> pb.RetryFailedRecipientsResponse:
        """Send again to the failed recipients of an ended campaign."""
        request = self._named(
            pb.RetryFailedRecipientsRequest(request_id=new_request_id(request_id)), campaign_id, external_id
        )
        return await self._transport.unary(request, pb.RetryFailedRecipientsResponse, timeout=timeout)

    async def _schedule(
        self,
        campaign_id: str | None,
        external_id: str | None,
        at: datetime | None,
        request_id: str | None,
        timeout: float | None,
    ) -> pb.Campaign:
        request = self._named(
            pb.ScheduleCampaignRequest(
                request_id=new_request_id(request_id), scheduled_at=timestamp("scheduled_at", at)
            ),
            campaign_id,
            external_id,
        )
        return (await self._transport.unary(request, pb.ScheduleCampaignResponse, timeout=timeout)).campaign
