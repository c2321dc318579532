"""CampaignService: what callers write and read of campaigns."""

# ruff: noqa: ARG002 - names and arguments are the contract's

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import grpc

from bulksms.campaign.v1 import campaign_pb2 as pb
from bulksms.campaign.v1.campaign_pb2_grpc import CampaignServiceServicer
from bulksms_campaign.domain.campaigns import Campaign, CampaignState, Step, campaign_not_found
from bulksms_campaign.domain.counters import Counters
from bulksms_campaign.domain.recipients import RecipientStatus
from bulksms_campaign.servicers.content import change_from, content_from
from bulksms_campaign.servicers.messages import (
    campaign_message,
    counters_message,
    counters_of,
    event_message,
    recipient_message,
    status_message,
)
from bulksms_campaign.servicers.references import campaign_id_of, campaign_reference, find_campaign
from bulksms_campaign.storage.campaigns import list_campaigns, read_campaign
from bulksms_campaign.storage.counters import read_counters
from bulksms_campaign.storage.events import list_events
from bulksms_campaign.storage.recipients import RecipientFilter, list_recipients, recount
from bulksms_campaign.storage.requests import MutationKey
from bulksms_campaign.use_cases.controls import Controls
from bulksms_campaign.use_cases.drafts import Drafts
from bulksms_campaign.use_cases.enqueue import Enqueue
from bulksms_campaign.use_cases.preview import Previews
from bulksms_campaign.use_cases.status import DEFAULT_RATE, MAX_RATE, StatusReader
from servicekit.arguments import ArgumentCheck, invalid_field
from servicekit.database import Database
from servicekit.paging import Listing, position

Context = grpc.aio.ServicerContext[Any, Any]
MAX_INTEGER = (1 << 31) - 1


@dataclass(frozen=True, slots=True)
class CampaignOperations:
    """What the servicer calls."""

    drafts: Drafts
    enqueue: Enqueue
    controls: Controls
    previews: Previews
    statuses: StatusReader


class CampaignServicer(CampaignServiceServicer):
    """Requests to operations and back; errors are raised, the interceptor renders them."""

    def __init__(self, database: Database, operations: CampaignOperations) -> None:
        self._database = database
        self._operations = operations

    async def CreateCampaign(self, request: pb.CreateCampaignRequest, context: Context) -> pb.CreateCampaignResponse:
        check = ArgumentCheck()
        request_id, tenant_id = check.request_id(request.request_id), check.tenant_id(request.tenant_id)
        external_id = check.optional_external_id(request.external_id)
        content = content_from(check, request)
        check.finish()
        key = MutationKey.of(tenant_id, request_id, "CreateCampaign", (external_id, content))
        created = await self._operations.drafts.create(key, external_id, content)
        return pb.CreateCampaignResponse(
            campaign=await self._with_counters(created.campaign), replayed=created.replayed
        )

    async def GetCampaign(self, request: pb.GetCampaignRequest, context: Context) -> pb.GetCampaignResponse:
        campaign = await self._read(ArgumentCheck(), request)
        return pb.GetCampaignResponse(campaign=await self._with_counters(campaign))

    async def ListCampaigns(self, request: pb.ListCampaignsRequest, context: Context) -> pb.ListCampaignsResponse:
        check = ArgumentCheck()
        tenant_id = check.tenant_id(request.tenant_id)
        size = check.page_size(request.page_size)
        state = check.enum("state", CampaignState, request.state)
        listing = Listing("campaigns", tenant_id, request.state)
        after = listing.after(check, request.page_token, _newest_key)
        check.finish()
        async with self._database.connect() as connection:
            found = await list_campaigns(connection, tenant_id, state, after, size + 1)
            page = found[:size]
            counters = await read_counters(connection, tenant_id, [campaign.campaign_id for campaign in page])
        token = ""
        if len(found) > size:
            token = listing.token(page[-1].created_at.isoformat(), str(page[-1].campaign_id))
        return pb.ListCampaignsResponse(
            campaigns=[campaign_message(item, counters_of(counters, item.campaign_id)) for item in page],
            next_page_token=token,
        )

    async def UpdateCampaign(self, request: pb.UpdateCampaignRequest, context: Context) -> pb.UpdateCampaignResponse:
        check = ArgumentCheck()
        change = change_from(check, request)
        key, campaign_id = await self._mutation(check, request, change)
        campaign = await self._operations.drafts.update(key, campaign_id, change, request.etag)
        return pb.UpdateCampaignResponse(campaign=await self._with_counters(campaign))

    async def DeleteCampaign(self, request: pb.DeleteCampaignRequest, context: Context) -> pb.DeleteCampaignResponse:
        check = ArgumentCheck()
        check.request_id(request.request_id)
        tenant_id, reference = check.tenant_id(request.tenant_id), campaign_reference(check, request)
        check.finish()
        campaign_id = await find_campaign(self._database, tenant_id, reference)
        if campaign_id is None:
            return pb.DeleteCampaignResponse(deleted=False)
        deleted = await self._operations.drafts.delete(tenant_id, campaign_id, request.etag)
        return pb.DeleteCampaignResponse(deleted=deleted)

    async def PreviewCampaign(self, request: pb.PreviewCampaignRequest, context: Context) -> pb.PreviewCampaignResponse:
        check = ArgumentCheck()
        check.number("samples", request.samples, minimum=0, maximum=20)
        tenant_id, campaign_id = await self._named(check, request)
        preview = await self._operations.previews.preview(tenant_id, campaign_id, request.samples or 3)
        return pb.PreviewCampaignResponse(
            recipients=preview.size.reachable,
            opted_out=preview.size.opted_out,
            parts=preview.parts,
            parts_counted=preview.parts_counted,
            ucs2_recipients=preview.ucs2_recipients,
            credits=preview.credits,
            credits_available=preview.credits_available,
            batches=preview.batches,
            samples=[
                pb.PreviewSample(
                    masked_phone=sample.masked_phone,
                    text=sample.text,
                    encoding=pb.TextEncoding.Value(f"TEXT_ENCODING_{sample.size.encoding.value}"),
                    parts=sample.size.parts,
                )
                for sample in preview.samples
            ],
            blockers=[pb.EnqueueBlocker.ValueType(int(blocker)) for blocker in preview.blockers],
        )

    async def EnqueueCampaign(self, request: pb.EnqueueCampaignRequest, context: Context) -> pb.EnqueueCampaignResponse:
        key, campaign_id = await self._mutation(ArgumentCheck(), request)
        enqueued = await self._operations.enqueue.run(key, campaign_id, Step.ENQUEUE)
        return pb.EnqueueCampaignResponse(
            campaign=await self._with_counters(enqueued.campaign, enqueued.counters),
            created=enqueued.created,
            enqueued_jobs=enqueued.enqueued_jobs,
            replayed=enqueued.replayed,
        )

    async def RetryFailedRecipients(
        self, request: pb.RetryFailedRecipientsRequest, context: Context
    ) -> pb.RetryFailedRecipientsResponse:
        key, campaign_id = await self._mutation(ArgumentCheck(), request)
        enqueued = await self._operations.enqueue.run(key, campaign_id, Step.RETRY_FAILED)
        return pb.RetryFailedRecipientsResponse(
            campaign=await self._with_counters(enqueued.campaign, enqueued.counters),
            created=enqueued.created,
            enqueued_jobs=enqueued.enqueued_jobs,
            replayed=enqueued.replayed,
        )

    async def ScheduleCampaign(
        self, request: pb.ScheduleCampaignRequest, context: Context
    ) -> pb.ScheduleCampaignResponse:
        check = ArgumentCheck()
        at = _moment(check, request)
        key, campaign_id = await self._mutation(check, request, at)
        campaign = await self._operations.drafts.schedule(key, campaign_id, at)
        return pb.ScheduleCampaignResponse(campaign=await self._with_counters(campaign))

    async def PauseCampaign(self, request: pb.PauseCampaignRequest, context: Context) -> pb.PauseCampaignResponse:
        key, campaign_id = await self._mutation(ArgumentCheck(), request)
        campaign = await self._operations.controls.pause(key, campaign_id)
        return pb.PauseCampaignResponse(campaign=await self._with_counters(campaign))

    async def ResumeCampaign(self, request: pb.ResumeCampaignRequest, context: Context) -> pb.ResumeCampaignResponse:
        key, campaign_id = await self._mutation(ArgumentCheck(), request)
        campaign = await self._operations.controls.resume(key, campaign_id)
        return pb.ResumeCampaignResponse(campaign=await self._with_counters(campaign))

    async def CancelCampaign(self, request: pb.CancelCampaignRequest, context: Context) -> pb.CancelCampaignResponse:
        check = ArgumentCheck()
        check.text("reason", request.reason, maximum=500)
        key, campaign_id = await self._mutation(check, request)
        campaign = await self._operations.controls.cancel(key, campaign_id, request.reason)
        return pb.CancelCampaignResponse(campaign=await self._with_counters(campaign))

    async def GetCampaignStatus(
        self, request: pb.GetCampaignStatusRequest, context: Context
    ) -> pb.GetCampaignStatusResponse:
        tenant_id, campaign_id = await self._named(ArgumentCheck(), request)
        status = await self._operations.statuses.read(tenant_id, campaign_id)
        return pb.GetCampaignStatusResponse(status=status_message(status))

    async def WatchCampaign(
        self, request: pb.WatchCampaignRequest, context: Context
    ) -> AsyncIterator[pb.WatchCampaignResponse]:
        tenant_id, campaign_id = await self._named(ArgumentCheck(), request)
        if not 0 <= request.max_rate <= MAX_RATE:
            raise invalid_field("max_rate", f"must be between 0 (for the default of {DEFAULT_RATE}) and {MAX_RATE}")
        watched = self._operations.statuses.watch(
            tenant_id, campaign_id, request.max_rate or DEFAULT_RATE, until_delivered=request.until_delivered
        )
        async for status, final in watched:
            yield pb.WatchCampaignResponse(status=status_message(status), final=final)

    async def ListRecipients(self, request: pb.ListRecipientsRequest, context: Context) -> pb.ListRecipientsResponse:
        check = ArgumentCheck()
        size = check.page_size(request.page_size)
        status = check.enum("status", RecipientStatus, request.status)
        only = request.enqueue_number if request.HasField("enqueue_number") else None
        if only is not None:
            check.number("enqueue_number", only, minimum=1, maximum=MAX_INTEGER)
        campaign = await self._read(check, request)
        listing = Listing("recipients", campaign.tenant_id, campaign.campaign_id, request.status, only)
        after = listing.after(check, request.page_token, position) or 0
        check.finish()
        numbers = range(1, campaign.enqueue_number + 1) if only is None else [only]
        chosen = RecipientFilter(status, numbers, superseded=only is not None)
        async with self._database.connect() as connection:
            rows, reached = await list_recipients(
                connection, campaign.tenant_id, campaign.campaign_id, chosen, after, size
            )
        return pb.ListRecipientsResponse(
            recipients=[recipient_message(row) for row in rows],
            next_page_token="" if reached is None else listing.token(reached),
        )

    async def ListEvents(self, request: pb.ListEventsRequest, context: Context) -> pb.ListEventsResponse:
        check = ArgumentCheck()
        size = check.page_size(request.page_size)
        campaign = await self._read(check, request)
        listing = Listing("events", campaign.tenant_id, campaign.campaign_id)
        after = listing.after(check, request.page_token, position) or 0
        check.finish()
        async with self._database.connect() as connection:
            rows = await list_events(connection, campaign.tenant_id, campaign.campaign_id, after, size + 1)
        return pb.ListEventsResponse(
            events=[event_message(row) for row in rows[:size]],
            next_page_token=listing.next_token(rows, size, lambda row: row.sequence),
        )

    async def RecountCampaign(self, request: pb.RecountCampaignRequest, context: Context) -> pb.RecountCampaignResponse:
        campaign = await self._read(ArgumentCheck(), request)
        async with self._database.connect() as connection:
            # One snapshot for both figures: reports keep coming in meanwhile.
            await connection.execution_options(isolation_level="REPEATABLE READ")
            rows = await read_counters(connection, campaign.tenant_id, [campaign.campaign_id])
            kept = counters_of(rows, campaign.campaign_id)
            counted = await recount(connection, campaign.tenant_id, campaign.campaign_id)
        return pb.RecountCampaignResponse(
            consistent=kept == counted, kept=counters_message(kept), counted=counters_message(counted)
        )

    async def _mutation(self, check: ArgumentCheck, request: Any, *content: object) -> tuple[MutationKey, UUID]:
        """The key of a mutation of one campaign, and that campaign; `content` is what must be the same on a repeat."""
        request_id = check.request_id(request.request_id)
        tenant_id, campaign_id = await self._named(check, request)
        operation = request.DESCRIPTOR.name.removesuffix("Request")
        return MutationKey.of(tenant_id, request_id, operation, (campaign_id, *content)), campaign_id

    async def _named(self, check: ArgumentCheck, request: Any) -> tuple[str, UUID]:
        """The tenant and the campaign a request names; raises what is wrong with it so far, CAMPAIGN_NOT_FOUND."""
        tenant_id, reference = check.tenant_id(request.tenant_id), campaign_reference(check, request)
        check.finish()
        return tenant_id, await campaign_id_of(self._database, tenant_id, reference)

    async def _read(self, check: ArgumentCheck, request: Any) -> Campaign:
        tenant_id, campaign_id = await self._named(check, request)
        async with self._database.connect() as connection:
            found = await read_campaign(connection, tenant_id, campaign_id)
        if found is None:
            raise campaign_not_found(campaign_id)
        return found

    async def _with_counters(self, campaign: Campaign, known: Counters | None = None) -> pb.Campaign:
        if known is not None:
            return campaign_message(campaign, known)
        async with self._database.connect() as connection:
            rows = await read_counters(connection, campaign.tenant_id, [campaign.campaign_id])
        return campaign_message(campaign, counters_of(rows, campaign.campaign_id))


def _moment(check: ArgumentCheck, request: pb.ScheduleCampaignRequest) -> datetime | None:
    return check.instant("scheduled_at", request.scheduled_at) if request.HasField("scheduled_at") else None


def _newest_key(created_at: str, campaign_id: str) -> tuple[datetime, UUID]:
    moment = datetime.fromisoformat(created_at)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)), UUID(campaign_id)
