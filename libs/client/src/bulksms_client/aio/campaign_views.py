"""What is read of campaigns: themselves, previews, their progress and their recipients."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from bulksms.campaign.v1 import campaign_pb2 as pb
from bulksms_client.aio.resource import PAGE_SIZE, RequestT, Resource
from bulksms_client.errors import BulkSmsError
from bulksms_client.reconnection import Reconnection

__all__ = ["CampaignViews"]

# A watch is a chain of streams of at most this length, so that none outlives its usefulness unnoticed.
WATCH_STREAM_SECONDS = 300.0
# Long enough for a service to be rolled out anew.
WATCH_PATIENCE_SECONDS = 60.0


class CampaignViews(Resource):
    """Calls that change nothing. A campaign is named by its id, or by `external_id`: the caller's own id of it."""

    async def get(
        self, campaign_id: str | None = None, *, external_id: str | None = None, timeout: float | None = None
    ) -> pb.Campaign:
        """Read one campaign."""
        request = self._named(pb.GetCampaignRequest(), campaign_id, external_id)
        return (await self._transport.unary(request, pb.GetCampaignResponse, timeout=timeout)).campaign

    async def list(
        self,
        *,
        state: pb.CampaignState.ValueType = pb.CAMPAIGN_STATE_UNSPECIFIED,
        page_size: int = PAGE_SIZE,
        timeout: float | None = None,
    ) -> AsyncIterator[pb.Campaign]:
        """The tenant's campaigns, newest first."""
        request = pb.ListCampaignsRequest(tenant_id=self._tenant_id, state=state, page_size=page_size)
        async for page in self._pages(request, pb.ListCampaignsResponse, timeout=timeout):
            for campaign in page.campaigns:
                yield campaign

    async def preview(
        self,
        campaign_id: str | None = None,
        *,
        external_id: str | None = None,
        samples: int = 3,
        timeout: float | None = None,
    ) -> pb.PreviewCampaignResponse:
        """Count the audience, parts and credits and render samples. No side effects."""
        request = self._named(pb.PreviewCampaignRequest(samples=samples), campaign_id, external_id)
        return await self._transport.unary(request, pb.PreviewCampaignResponse, timeout=timeout)

    async def status(
        self, campaign_id: str | None = None, *, external_id: str | None = None, timeout: float | None = None
    ) -> pb.CampaignStatus:
        """State, counters and rate; made for polling."""
        request = self._named(pb.GetCampaignStatusRequest(), campaign_id, external_id)
        return (await self._transport.unary(request, pb.GetCampaignStatusResponse, timeout=timeout)).status

    async def watch(
        self,
        campaign_id: str | None = None,
        *,
        external_id: str | None = None,
        until_delivered: bool = False,
        max_rate: float = 2.0,
        patience: float = WATCH_PATIENCE_SECONDS,
    ) -> AsyncGenerator[pb.CampaignStatus, None]:
        """The status now and whenever it changes, until the campaign ended (and, if asked, all reports are in).

        A broken connection is made again by itself; when nothing was heard for `patience` seconds after it broke,
        the last error is raised.
        """
        request = self._named(
            pb.WatchCampaignRequest(max_rate=max_rate, until_delivered=until_delivered), campaign_id, external_id
        )
        reconnection = Reconnection(patience)
        while True:
            broken: BulkSmsError | None = None
            stream = self._transport.download(request, pb.WatchCampaignResponse, timeout=WATCH_STREAM_SECONDS)
            async with aclosing(stream) as updates:
                try:
                    async for update in updates:
                        yield update.status
                        if update.final:
                            return
                        reconnection.progressed()
                except BulkSmsError as error:
                    broken = error
            await self._transport.sleep(reconnection.pause(broken))

    async def recipients(
        self,
        campaign_id: str | None = None,
        *,
        external_id: str | None = None,
        status: pb.RecipientStatus.ValueType = pb.RECIPIENT_STATUS_UNSPECIFIED,
        enqueue_number: int | None = None,
        page_size: int = PAGE_SIZE,
        timeout: float | None = None,
    ) -> AsyncIterator[pb.Recipient]:
        """A campaign's recipients in phone order, by their latest enqueue or the one asked for; pages by itself."""
        request = self._named(
            pb.ListRecipientsRequest(status=status, enqueue_number=enqueue_number, page_size=page_size),
            campaign_id,
            external_id,
        )
        async for page in self._pages(request, pb.ListRecipientsResponse, timeout=timeout):
            for recipient in page.recipients:
                yield recipient

    async def events(
        self,
        campaign_id: str | None = None,
        *,
        external_id: str | None = None,
        page_size: int = PAGE_SIZE,
        timeout: float | None = None,
    ) -> AsyncIterator[pb.CampaignEvent]:
        """What happened to a campaign, oldest first; pages by itself."""
        request = self._named(pb.ListEventsRequest(page_size=page_size), campaign_id, external_id)
        async for page in self._pages(request, pb.ListEventsResponse, timeout=timeout):
            for event in page.events:
                yield event

    async def recount(
        self, campaign_id: str | None = None, *, external_id: str | None = None, timeout: float | None = None
    ) -> pb.RecountCampaignResponse:
        """Count the recipients and compare with the counters. Read-only."""
        request = self._named(pb.RecountCampaignRequest(), campaign_id, external_id)
        return await self._transport.unary(request, pb.RecountCampaignResponse, timeout=timeout)

    def _named(self, request: RequestT, campaign_id: str | None, external_id: str | None) -> RequestT:
        return self._naming(request, campaign_id=campaign_id, external_id=external_id)
