"""Content: what a caller writes of a campaign, read from the requests that create and change one."""

from __future__ import annotations

from datetime import datetime

from bulksms.campaign.v1 import campaign_pb2 as pb
from bulksms_campaign.domain.campaigns import (
    CampaignContent,
    CampaignPriority,
    MessageClass,
    check_content,
    check_text,
)
from bulksms_campaign.servicers.messages import audience_from
from bulksms_campaign.servicers.references import masked_fields
from bulksms_campaign.use_cases.drafts import ContentChange, Replaced
from servicekit.arguments import ArgumentCheck
from smstext.sender import check_sender

FIELDS = ("name", "text", "sender", "audience", "priority", "message_class", "not_after")


def content_from(check: ArgumentCheck, request: pb.CreateCampaignRequest) -> CampaignContent:
    """The content of a new campaign."""
    content = CampaignContent(
        name=request.name,
        text=request.text,
        sender=request.sender,
        audience=audience_from(check, request.audience),
        priority=_priority(check, request),
        message_class=_message_class(check, request),
        not_after=_not_after(check, request),
    )
    check_content(check, content)
    return content


def change_from(check: ArgumentCheck, request: pb.UpdateCampaignRequest) -> ContentChange:
    """What an update replaces: what its mask names, without a mask what is set."""
    populated = {field.name for field, _ in request.ListFields()} & set(FIELDS)
    fields = masked_fields(check, request.update_mask, FIELDS, populated)
    change = ContentChange(
        name=request.name if "name" in fields else None,
        text=request.text if "text" in fields else None,
        sender=request.sender if "sender" in fields else None,
        audience=audience_from(check, request.audience) if "audience" in fields else None,
        priority=_priority(check, request) if "priority" in fields else None,
        message_class=_message_class(check, request) if "message_class" in fields else None,
        not_after=Replaced(_not_after(check, request)) if "not_after" in fields else None,
    )
    if change.name is not None:
        check.text("name", change.name, minimum=1, maximum=200)
    if change.text is not None:
        check_text(check, change.text)
    if change.sender is not None and (wrong := check_sender(change.sender)) is not None:
        check.wrong("sender", wrong)
    return change


def _priority(check: ArgumentCheck, request: pb.CreateCampaignRequest | pb.UpdateCampaignRequest) -> CampaignPriority:
    return check.enum("priority", CampaignPriority, request.priority) or CampaignPriority.NORMAL


def _message_class(check: ArgumentCheck, request: pb.CreateCampaignRequest | pb.UpdateCampaignRequest) -> MessageClass:
    return check.enum("message_class", MessageClass, request.message_class) or MessageClass.MARKETING


def _not_after(check: ArgumentCheck, request: pb.CreateCampaignRequest | pb.UpdateCampaignRequest) -> datetime | None:
    return check.instant("not_after", request.not_after) if request.HasField("not_after") else None
