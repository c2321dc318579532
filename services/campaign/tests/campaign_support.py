"""What tests of the campaign service use: stand-ins for its peers, and the running service as callers see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import uuid4

import grpc
import pytest

from bulksms.campaign.v1 import campaign_pb2, contacts_pb2, results_pb2
from bulksms.campaign.v1.campaign_pb2_grpc import CampaignServiceStub
from bulksms.campaign.v1.contacts_pb2_grpc import ContactServiceStub
from bulksms.campaign.v1.results_pb2_grpc import ResultServiceStub
from bulksms.dispatcher.v1 import dispatch_pb2
from bulksms.dispatcher.v1.dispatch_pb2_grpc import DispatchServiceServicer
from bulksms.types.v1 import types_pb2
from devstack.eventually import eventually
from devstack.ledger_stand_in import LedgerStandIn
from servicekit import errors
from servicekit.database import Database
from servicekit.errors import DomainError
from servicekit.grpc.client import open_channel
from servicekit.grpc.errors import from_rpc_error

TENANT = "acme"


@dataclass
class Submission:
    header: dispatch_pb2.SubmissionHeader
    phones: list[int] = field(default_factory=list)
    values: list[str] = field(default_factory=list)
    complete: bool = False


class DispatcherStandIn(DispatchServiceServicer):
    """Stores submissions as the contract says; `break_after` phones the stream breaks, once."""

    def __init__(self) -> None:
        self.submissions: dict[str, Submission] = {}
        self.paused: set[str] = set()
        self.cancelled: set[str] = set()
        self.opted_out: set[int] = set()
        self.break_after: int | None = None
        self.down = False
        self.streams = 0
        self.hold: asyncio.Event | None = None
        self.campaign_hold = dispatch_pb2.GetCampaignHoldResponse()

    def _check_up(self) -> None:
        if self.down:
            raise errors.unavailable("DOWN", "Down for the test.")

    async def Submit(self, request_iterator: Any, context: Any) -> dispatch_pb2.SubmitResponse:
        self._check_up()
        self.streams += 1
        if self.hold is not None:
            await self.hold.wait()
        submission = Submission(dispatch_pb2.SubmissionHeader())
        async for request in request_iterator:
            if request.HasField("header"):
                key = request.header.submission_id
                submission = self.submissions.setdefault(key, Submission(request.header))
                assert submission.header == request.header
            elif request.HasField("chunk"):
                if submission.header.campaign_id in self.cancelled:
                    raise errors.wrong_state("CAMPAIGN_CANCELLED", "Cancelled.")
                chunk = request.chunk
                assert chunk.first_index == len(submission.phones)
                submission.phones += chunk.phones
                submission.values += chunk.values
                if self.break_after is not None and len(submission.phones) >= self.break_after:
                    self.break_after = None
                    raise errors.overloaded("BACKLOG_FULL", "Full.", retry_after=timedelta(milliseconds=10))
            else:
                assert request.end.recipients == len(submission.phones)
                submission.complete = True
        return dispatch_pb2.SubmitResponse(recipients=len(submission.phones), batches=1)

    async def GetSubmission(self, request: Any, context: Any) -> dispatch_pb2.GetSubmissionResponse:
        self._check_up()
        submission = self.submissions.get(request.submission_id)
        if submission is None:
            raise errors.not_found("SUBMISSION_NOT_FOUND", "None.")
        return dispatch_pb2.GetSubmissionResponse(
            next_index=len(submission.phones),
            last_phone=submission.phones[-1] if submission.phones else 0,
            complete=submission.complete,
        )

    async def PauseCampaign(self, request: Any, context: Any) -> dispatch_pb2.PauseCampaignResponse:
        self._check_up()
        self.paused.add(request.campaign_id)
        return dispatch_pb2.PauseCampaignResponse()

    async def ResumeCampaign(self, request: Any, context: Any) -> dispatch_pb2.ResumeCampaignResponse:
        self._check_up()
        self.paused.discard(request.campaign_id)
        return dispatch_pb2.ResumeCampaignResponse()

    async def CancelCampaign(self, request: Any, context: Any) -> dispatch_pb2.CancelCampaignResponse:
        self._check_up()
        self.cancelled.add(request.campaign_id)
        return dispatch_pb2.CancelCampaignResponse()

    async def GetCampaignHold(self, request: Any, context: Any) -> dispatch_pb2.GetCampaignHoldResponse:
        self._check_up()
        return self.campaign_hold

    async def RecordOptOuts(self, request: Any, context: Any) -> dispatch_pb2.RecordOptOutsResponse:
        self._check_up()
        self.opted_out |= set(request.phones)
        return dispatch_pb2.RecordOptOutsResponse()

    async def RemoveOptOuts(self, request: Any, context: Any) -> dispatch_pb2.RemoveOptOutsResponse:
        self._check_up()
        self.opted_out -= set(request.phones)
        return dispatch_pb2.RemoveOptOutsResponse()

    def only_submission(self) -> Submission:
        (submission,) = self.submissions.values()
        return submission


class Service:
    """The running service as its callers see it, and what stands around it."""

    def __init__(self, address: str, database: Database, ledger: LedgerStandIn, dispatcher: DispatcherStandIn) -> None:
        self.address = address
        self.database = database
        self.ledger = ledger
        self.dispatcher = dispatcher
        self.channel = open_channel(address)
        self.campaigns = CampaignServiceStub(self.channel)
        self.contacts = ContactServiceStub(self.channel)
        self.results = ResultServiceStub(self.channel)

    async def import_csv(
        self,
        text: str | bytes,
        *,
        region: str = "GR",
        groups: Sequence[str] = (),
        request_id: str = "",
        piece: int = 65536,
    ) -> contacts_pb2.ImportContactsResponse:
        data = text.encode() if isinstance(text, str) else text
        header = contacts_pb2.ImportHeader(
            request_id=request_id or str(uuid4()), tenant_id=TENANT, default_region=region, groups=groups
        )

        async def parts() -> AsyncIterator[contacts_pb2.ImportContactsRequest]:
            yield contacts_pb2.ImportContactsRequest(header=header)
            for start in range(0, len(data), piece):
                yield contacts_pb2.ImportContactsRequest(data=data[start : start + piece])

        return await self.contacts.ImportContacts(parts())

    async def import_phones(self, phones: Sequence[int], *, groups: Sequence[str] = ()) -> None:
        await self.import_csv("phone\n" + "".join(f"+{phone}\n" for phone in phones), groups=groups)

    async def create(self, **changes: Any) -> campaign_pb2.Campaign:
        arguments: dict[str, Any] = {
            "request_id": str(uuid4()),
            "tenant_id": TENANT,
            "name": "Spring",
            "text": "Hello!",
            "sender": "Acme",
            "audience": contacts_pb2.Audience(all_contacts=True),
        }
        created = await self.campaigns.CreateCampaign(campaign_pb2.CreateCampaignRequest(**{**arguments, **changes}))
        return created.campaign

    async def enqueue(self, campaign_id: str, request_id: str = "") -> campaign_pb2.EnqueueCampaignResponse:
        return await self.campaigns.EnqueueCampaign(
            campaign_pb2.EnqueueCampaignRequest(
                request_id=request_id or str(uuid4()), tenant_id=TENANT, campaign_id=campaign_id
            )
        )

    async def get(self, campaign_id: str) -> campaign_pb2.Campaign:
        request = campaign_pb2.GetCampaignRequest(tenant_id=TENANT, campaign_id=campaign_id)
        return (await self.campaigns.GetCampaign(request)).campaign

    async def events(self, campaign_id: str) -> list[str]:
        request = campaign_pb2.ListEventsRequest(tenant_id=TENANT, campaign_id=campaign_id, page_size=1000)
        kinds = campaign_pb2.CampaignEventKind
        events = (await self.campaigns.ListEvents(request)).events
        return [kinds.Name(event.kind).removeprefix("CAMPAIGN_EVENT_KIND_") for event in events]

    async def recipients(self, campaign_id: str, **filters: Any) -> list[campaign_pb2.Recipient]:
        request = campaign_pb2.ListRecipientsRequest(
            tenant_id=TENANT, campaign_id=campaign_id, page_size=1000, **filters
        )
        return list((await self.campaigns.ListRecipients(request)).recipients)

    async def recount(self, campaign_id: str) -> campaign_pb2.RecountCampaignResponse:
        request = campaign_pb2.RecountCampaignRequest(tenant_id=TENANT, campaign_id=campaign_id)
        return await self.campaigns.RecountCampaign(request)

    async def record(
        self,
        campaign_id: str,
        *groups: results_pb2.OutcomeGroup,
        epoch: int = 1,
        batch_id: str = "",
        enqueue_number: int = 1,
        traceparent: str = "",
        attempt_id: str = "",
    ) -> int:
        phones = [phone for group in groups for phone in group.phones]
        request = results_pb2.RecordBatchResultRequest(
            tenant_id=TENANT,
            campaign_id=campaign_id,
            enqueue_number=enqueue_number,
            batch_id=batch_id or str(uuid4()),
            epoch=epoch,
            bulk_id="bulk",
            traceparent=traceparent,
            first_phone=min(phones),
            last_phone=max(phones),
            groups=groups,
            attempt_id=attempt_id,
        )
        return (await self.results.RecordBatchResult(request)).changed

    async def report(
        self, *reports: tuple[str, results_pb2.DeliveryStatus.ValueType]
    ) -> results_pb2.RecordDeliveryReportsResponse:
        return await self.results.RecordDeliveryReports(
            results_pb2.RecordDeliveryReportsRequest(
                reports=[results_pb2.DeliveryReport(provider_message_id=id_, status=status) for id_, status in reports]
            )
        )

    async def retry_failed(self, campaign_id: str) -> campaign_pb2.RetryFailedRecipientsResponse:
        """Sent to again, and handed to the dispatcher."""
        request = campaign_pb2.RetryFailedRecipientsRequest(
            request_id=str(uuid4()), tenant_id=TENANT, campaign_id=campaign_id
        )
        response = await self.campaigns.RetryFailedRecipients(request)

        async def submitted() -> bool:
            return (await self.events(campaign_id)).count("SUBMITTED") == response.campaign.enqueue_number

        await eventually(submitted)
        return response

    async def started(self, phones: Sequence[int], **changes: Any) -> str:
        """A campaign to these phones, enqueued, snapshotted and submitted."""
        await self.import_phones(phones)
        campaign = await self.create(**changes)
        await self.enqueue(campaign.campaign_id)
        await eventually(lambda: self.has_event(campaign.campaign_id, "SUBMITTED"), 20)
        return campaign.campaign_id

    async def has_event(self, campaign_id: str, kind: str) -> bool:
        return kind in await self.events(campaign_id)

    async def is_in(self, campaign_id: str, state: campaign_pb2.CampaignState.ValueType) -> bool:
        return (await self.get(campaign_id)).state == state


def audience(*groups: str, exclude: Sequence[str] = ()) -> contacts_pb2.Audience:
    """The contacts of some groups, or without any all contacts, without those of others."""
    if not groups:
        return contacts_pb2.Audience(all_contacts=True, exclude_groups=exclude)
    return contacts_pb2.Audience(groups=contacts_pb2.GroupSelection(names=groups), exclude_groups=exclude)


def accepted(phones: Sequence[int], prefix: str = "m") -> results_pb2.OutcomeGroup:
    return results_pb2.OutcomeGroup(
        outcome=results_pb2.RECIPIENT_OUTCOME_ACCEPTED,
        phones=phones,
        provider_message_ids=[f"{prefix}{phone}" for phone in phones],
    )


def outcome(
    kind: results_pb2.RecipientOutcome.ValueType,
    phones: Sequence[int],
    reason: types_pb2.OutcomeReason.ValueType = types_pb2.OUTCOME_REASON_ATTEMPTS_EXHAUSTED,
) -> results_pb2.OutcomeGroup:
    return results_pb2.OutcomeGroup(outcome=kind, phones=phones, reason=reason)


async def refused(call: Awaitable[Any]) -> DomainError:
    """The error a call is refused with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)
