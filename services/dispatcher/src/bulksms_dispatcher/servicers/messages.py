"""MessageService: single messages, and reports the campaign service does not know."""
# ruff: noqa: ARG002 - names and parameters are those of the generated base class

from __future__ import annotations

import re
from typing import Any
from uuid import UUID

from bulksms.dispatcher.v1 import messages_pb2 as pb
from bulksms.dispatcher.v1 import messages_pb2_grpc
from bulksms.types.v1 import types_pb2
from bulksms_dispatcher.domain.messages import (
    MAX_TEXT,
    DeliveryEvidence,
    Message,
    MessageClass,
    MessageReference,
    MessageStatus,
)
from bulksms_dispatcher.domain.provider_responses import MAX_ID_LENGTH
from bulksms_dispatcher.peers.reasons import reason_number
from bulksms_dispatcher.storage import messages
from bulksms_dispatcher.use_cases.delivery_evidence import DeliveryEvidenceIntake
from bulksms_dispatcher.use_cases.single_sends import SingleSend, SingleSends
from bulksms_dispatcher.use_cases.status_questions import StatusQuestions
from servicekit import errors
from servicekit.arguments import ArgumentCheck
from servicekit.database import Database
from servicekit.paging import Listing
from smstext.phone import format_e164
from smstext.sender import check_sender

__all__ = ["MessageServicer"]

Context = Any
MAX_REPORTS = 5000
_E164 = re.compile(r"\+[1-9][0-9]{6,14}")
_MAX_RAW_STATUS, _MAX_DESCRIPTION = 64, 200


class MessageServicer(messages_pb2_grpc.MessageServiceServicer):
    """The contract of each RPC is its comment in the proto."""

    def __init__(
        self, database: Database, singles: SingleSends, questions: StatusQuestions, evidence: DeliveryEvidenceIntake
    ) -> None:
        self._database = database
        self._singles = singles
        self._questions = questions
        self._evidence = evidence

    async def SendMessage(self, request: pb.SendMessageRequest, context: Context) -> pb.SendMessageResponse:
        check = ArgumentCheck()
        wanted = SingleSend(
            request_id=check.request_id(request.request_id),
            tenant_id=check.tenant_id(request.tenant_id),
            phone=_phone(check, request.phone),
            text=check.long_text("text", request.text, minimum=1, maximum=MAX_TEXT),
            sender=request.sender,
            external_id=check.optional_external_id(request.external_id),
            message_class=check.enum("message_class", MessageClass, request.message_class) or MessageClass.SERVICE,
        )
        if (problem := check_sender(request.sender)) is not None:
            check.wrong("sender", problem)
        check.finish()
        message, replayed = await self._singles.send(wanted)
        return pb.SendMessageResponse(message=_message(message), replayed=replayed)

    async def GetMessage(self, request: pb.GetMessageRequest, context: Context) -> pb.GetMessageResponse:
        check = ArgumentCheck()
        tenant_id = check.tenant_id(request.tenant_id)
        reference = _reference(check, request)
        check.finish()
        async with self._database.connect() as connection:
            message = await messages.find(connection, tenant_id, reference)
        if message is None:
            raise errors.not_found(
                "MESSAGE_NOT_FOUND",
                "The tenant has no such message: take its id from SendMessage or ListMessages.",
                message_id=reference.message_id or reference.external_id,
            )
        return pb.GetMessageResponse(message=_message(message))

    async def ListMessages(self, request: pb.ListMessagesRequest, context: Context) -> pb.ListMessagesResponse:
        check = ArgumentCheck()
        tenant_id = check.tenant_id(request.tenant_id)
        size = check.page_size(request.page_size)
        listing = Listing("messages", tenant_id)
        before = listing.after(check, request.page_token, UUID)
        check.finish()
        async with self._database.connect() as connection:
            found = await messages.list_page(connection, tenant_id, before, size + 1)
        return pb.ListMessagesResponse(
            messages=[_message(message) for message in found[:size]],
            next_page_token=listing.next_token(found, size, lambda message: str(message.message_id)),
        )

    async def RefreshMessageStatus(
        self, request: pb.RefreshMessageStatusRequest, context: Context
    ) -> pb.RefreshMessageStatusResponse:
        check = ArgumentCheck()
        tenant_id = check.tenant_id(request.tenant_id)
        reference = _reference(check, request)
        check.finish()
        status, provider_status = await self._questions.refresh(tenant_id, reference)
        return pb.RefreshMessageStatusResponse(
            status=pb.MessageStatus.ValueType(status), provider_status=provider_status
        )

    async def RecordDeliveryEvidence(
        self, request: pb.RecordDeliveryEvidenceRequest, context: Context
    ) -> pb.RecordDeliveryEvidenceResponse:
        check = ArgumentCheck()
        if len(request.reports) > MAX_REPORTS:
            check.wrong("reports", f"must be at most {MAX_REPORTS}")
        check.finish()
        reports = [
            DeliveryEvidence(
                _printable(report.provider_message_id),
                _evidence_status(report.status),
                _printable(report.raw_status)[:_MAX_RAW_STATUS],
                _printable(report.description)[:_MAX_DESCRIPTION],
            )
            for report in request.reports
        ]
        known = await self._evidence.record(reports)
        return pb.RecordDeliveryEvidenceResponse(
            unknown_indexes=[index for index, report in enumerate(reports) if report.provider_message_id not in known]
        )


def _reference(
    check: ArgumentCheck, request: pb.GetMessageRequest | pb.RefreshMessageStatusRequest
) -> MessageReference:
    match request.WhichOneof("message"):
        case "external_id":
            return MessageReference(external_id=check.external_id(request.external_id))
        case "provider_message_id" if isinstance(request, pb.RefreshMessageStatusRequest):
            provider_id = request.provider_message_id
            if not 0 < len(provider_id) <= MAX_ID_LENGTH or not provider_id.isprintable():
                check.wrong("provider_message_id", f"must be 1-{MAX_ID_LENGTH} printable characters")
            return MessageReference(provider_message_id=provider_id)
        case _:
            return MessageReference(message_id=check.uuid("message_id", request.message_id))


def _phone(check: ArgumentCheck, value: str) -> int:
    if not _E164.fullmatch(value):
        check.wrong("phone", "must be an E.164 number: '+' and 7 to 15 digits, no leading 0")
        return 0
    return int(value[1:])


def _evidence_status(status: int) -> MessageStatus:
    """Anything that is not final says no more than that it was sent."""
    final = (MessageStatus.DELIVERED, MessageStatus.FAILED)
    return MessageStatus(status) if status in final else MessageStatus.SENT


def _printable(text: str) -> str:
    """Without NUL, which PostgreSQL does not store: an id that had one is nobody's anyway."""
    return text.replace("\0", "�")


def _message(message: Message) -> pb.Message:
    reply = pb.Message(
        message_id=str(message.message_id),
        tenant_id=message.tenant_id,
        external_id=message.external_id,
        phone=format_e164(message.phone),
        sender=message.sender,
        message_class=types_pb2.MessageClass.ValueType(message.message_class),
        status=pb.MessageStatus.ValueType(message.status),
        reason=reason_number(message.reason),
        description=message.description,
        provider_message_id=message.provider_message_id,
        parts=message.parts,
    )
    if message.created_at is not None:
        reply.created_at.FromDatetime(message.created_at)
    if message.updated_at is not None:
        reply.updated_at.FromDatetime(message.updated_at)
    return reply
