"""DispatchService: submissions in, pause, resume, cancel, what holds a campaign, opt-outs."""
# ruff: noqa: ARG002 - names and parameters are those of the generated base class

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

from bulksms.dispatcher.v1 import dispatch_pb2 as pb
from bulksms.dispatcher.v1 import dispatch_pb2_grpc
from bulksms.types.v1 import types_pb2
from bulksms_dispatcher.domain.messages import MessageClass
from bulksms_dispatcher.domain.submissions import MAX_CHUNK, MAX_PHONE, MIN_PHONE, Submission
from bulksms_dispatcher.peers.reasons import reason_number
from bulksms_dispatcher.storage import opt_outs, take_backs
from bulksms_dispatcher.use_cases.campaign_control import CampaignControl
from bulksms_dispatcher.use_cases.campaign_holds import CampaignHolds
from bulksms_dispatcher.use_cases.intake import Chunk, End, Intake
from servicekit import errors
from servicekit.arguments import ArgumentCheck
from servicekit.database import Database
from smstext.sender import check_sender
from smstext.template import Template, TemplateError

__all__ = ["DispatchServicer"]

Context = Any
MAX_TEXT = 4096
MAX_INTEGER = (1 << 31) - 1
MAX_DIGEST = 64
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}")
# A malformed one is no reason not to send: the batches begin traces of their own then.
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class DispatchServicer(dispatch_pb2_grpc.DispatchServiceServicer):
    """The contract of each RPC is its comment in the proto."""

    def __init__(self, database: Database, intake: Intake, control: CampaignControl, holds: CampaignHolds) -> None:
        self._database = database
        self._intake = intake
        self._control = control
        self._holds = holds

    async def Submit(self, request_iterator: AsyncIterator[pb.SubmitRequest], context: Context) -> pb.SubmitResponse:
        first = await anext(aiter(request_iterator), None)
        if first is None or first.WhichOneof("part") != "header":
            raise _wrong_order("header", "must be the first message")
        progress = await self._intake.submit(_submission(first.header), _parts(request_iterator))
        return pb.SubmitResponse(recipients=progress.next_index, batches=progress.batches)

    async def GetSubmission(self, request: pb.GetSubmissionRequest, context: Context) -> pb.GetSubmissionResponse:
        check = ArgumentCheck()
        tenant_id = check.tenant_id(request.tenant_id)
        submission_id = check.uuid("submission_id", request.submission_id)
        check.finish()
        progress = await self._intake.find(tenant_id, submission_id)
        return pb.GetSubmissionResponse(
            next_index=progress.next_index,
            last_phone=progress.last_phone or None,
            batches=progress.batches,
            complete=progress.complete,
        )

    async def PauseCampaign(self, request: pb.PauseCampaignRequest, context: Context) -> pb.PauseCampaignResponse:
        tenant_id, campaign_id = _campaign(request)
        return pb.PauseCampaignResponse(in_flight=await self._control.pause(tenant_id, campaign_id))

    async def ResumeCampaign(self, request: pb.ResumeCampaignRequest, context: Context) -> pb.ResumeCampaignResponse:
        tenant_id, campaign_id = _campaign(request)
        return pb.ResumeCampaignResponse(ready=await self._control.resume(tenant_id, campaign_id))

    async def CancelCampaign(self, request: pb.CancelCampaignRequest, context: Context) -> pb.CancelCampaignResponse:
        tenant_id, campaign_id = _campaign(request)
        cancelled = await self._control.cancel(tenant_id, campaign_id)
        return pb.CancelCampaignResponse(
            cancelled_recipients=cancelled.cancelled_recipients,
            in_flight=cancelled.in_flight,
            submitted_recipients=cancelled.submitted_recipients,
        )

    async def GetCampaignHold(self, request: pb.GetCampaignHoldRequest, context: Context) -> pb.GetCampaignHoldResponse:
        check = ArgumentCheck()
        tenant_id = check.tenant_id(request.tenant_id)
        campaign_id = check.uuid("campaign_id", request.campaign_id)
        check.finish()
        hold = await self._holds.find(tenant_id, campaign_id)
        response = pb.GetCampaignHoldResponse(
            reason=types_pb2.HoldReason.ValueType(hold.reason),
            batch_reason=reason_number(hold.batch_reason),
            description=hold.description,
        )
        if hold.since is not None:
            response.since.FromDatetime(hold.since)
        if hold.until is not None:
            response.until.FromDatetime(hold.until)
        return response

    async def RecordOptOuts(self, request: pb.RecordOptOutsRequest, context: Context) -> pb.RecordOptOutsResponse:
        tenant_id, phones = _opt_outs(request)
        async with self._database.begin() as connection:
            added = await opt_outs.add(connection, tenant_id, phones)
            if added:
                await take_backs.with_numbers(connection, tenant_id, phones)
        return pb.RecordOptOutsResponse(added=added)

    async def RemoveOptOuts(self, request: pb.RemoveOptOutsRequest, context: Context) -> pb.RemoveOptOutsResponse:
        tenant_id, phones = _opt_outs(request)
        async with self._database.begin() as connection:
            removed = await opt_outs.remove(connection, tenant_id, phones)
        return pb.RemoveOptOutsResponse(removed=removed)


def _submission(header: pb.SubmissionHeader) -> Submission:
    check = ArgumentCheck()
    submission = Submission(
        submission_id=check.uuid("header.submission_id", header.submission_id),
        tenant_id=check.tenant_id(header.tenant_id, "header.tenant_id"),
        campaign_id=check.uuid("header.campaign_id", header.campaign_id),
        enqueue_number=header.enqueue_number,
        reservation_id=check.uuid("header.reservation_id", header.reservation_id),
        text=check.long_text("header.text", header.text, minimum=1, maximum=MAX_TEXT),
        variable_names=tuple(header.variable_names),
        sender=header.sender,
        priority=header.priority or types_pb2.PRIORITY_NORMAL,
        traceparent=header.traceparent if _TRACEPARENT.fullmatch(header.traceparent) else "",
        snapshot_digest=header.snapshot_digest,
        not_after=check.instant("header.not_after", header.not_after) if header.HasField("not_after") else None,
        message_class=check.enum("header.message_class", MessageClass, header.message_class) or MessageClass.MARKETING,
    )
    if submission.campaign_id == UUID(int=0):
        check.wrong("header.campaign_id", "must not be all zeros")
    check.number("header.enqueue_number", header.enqueue_number, minimum=1, maximum=MAX_INTEGER)
    if submission.priority not in types_pb2.Priority.values():
        check.wrong("header.priority", "must be one of the enum's values")
    if (problem := check_sender(header.sender)) is not None:
        check.wrong("header.sender", problem)
    if not 1 <= len(header.snapshot_digest) <= MAX_DIGEST:
        check.wrong("header.snapshot_digest", f"must be 1 to {MAX_DIGEST} bytes")
    _check_template(check, submission)
    check.finish()
    return submission


def _check_template(check: ArgumentCheck, submission: Submission) -> None:
    names = submission.variable_names
    if not all(map(_NAME.fullmatch, names)):
        check.wrong("header.variable_names", "must be names: letters, digits and '_', at most 32")
    if len(set(names)) != len(names):
        check.wrong("header.variable_names", "must not repeat a name")
    try:
        wanted = Template.parse(submission.text).variable_names
    except TemplateError as error:
        check.wrong("header.text", str(error))
        return
    missing = [name for name in wanted if name not in names]
    if missing:
        check.wrong("header.variable_names", f"must contain {', '.join(missing)}, which the text uses")


async def _parts(requests: AsyncIterator[pb.SubmitRequest]) -> AsyncIterator[Chunk | End]:
    async for request in requests:
        match request.WhichOneof("part"):
            case "chunk":
                chunk = request.chunk
                yield Chunk(chunk.first_index, list(chunk.phones), list(chunk.values))
            case "end":
                yield End(request.end.recipients)
            case other:
                raise _wrong_order(other or "part", "must be a chunk or the end after the header")


def _wrong_order(field: str, description: str) -> errors.DomainError:
    return errors.invalid_argument(
        "INVALID_ARGUMENT",
        "A submission is one header, then chunks, then the end.",
        violations=[errors.FieldViolation(field, description)],
    )


def _campaign(
    request: pb.PauseCampaignRequest | pb.ResumeCampaignRequest | pb.CancelCampaignRequest,
) -> tuple[str, UUID]:
    check = ArgumentCheck()
    check.request_id(request.request_id)
    tenant_id = check.tenant_id(request.tenant_id)
    campaign_id = check.uuid("campaign_id", request.campaign_id)
    check.finish()
    return tenant_id, campaign_id


def _opt_outs(
    request: pb.RecordOptOutsRequest | pb.RemoveOptOutsRequest,
) -> tuple[str, Sequence[int]]:
    check = ArgumentCheck()
    check.request_id(request.request_id)
    tenant_id = check.tenant_id(request.tenant_id)
    phones = sorted(set(request.phones))
    if not 0 < len(request.phones) <= MAX_CHUNK:
        check.wrong("phones", f"must be 1 to {MAX_CHUNK} numbers")
    elif phones[0] < MIN_PHONE or phones[-1] > MAX_PHONE:
        check.wrong("phones", "must be E.164 digits: 7 to 15 of them")
    check.finish()
    return tenant_id, phones
