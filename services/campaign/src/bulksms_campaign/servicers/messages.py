"""Domain objects as messages of the contract, and back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from bulksms.campaign.v1 import campaign_pb2, contacts_pb2
from bulksms.types.v1 import types_pb2
from bulksms_campaign.domain.audiences import Audience, check_audience
from bulksms_campaign.domain.campaigns import Campaign
from bulksms_campaign.domain.contacts import Contact
from bulksms_campaign.domain.counters import Counters
from bulksms_campaign.domain.holds import Hold
from bulksms_campaign.domain.recipients import reason_of, status_of
from bulksms_campaign.peers.reasons import reason_number
from bulksms_campaign.storage.counters import CampaignCounters
from bulksms_campaign.storage.events import EventRow
from bulksms_campaign.storage.imports import ImportLineRow
from bulksms_campaign.storage.recipients import RecipientRow
from bulksms_campaign.use_cases.status import CampaignStatus
from servicekit.arguments import ArgumentCheck
from smstext.phone import format_e164


def timestamp(moment: datetime | None) -> Timestamp | None:
    """A message of a moment; None leaves the field unset."""
    if moment is None:
        return None
    message = Timestamp()
    message.FromDatetime(moment.astimezone(UTC))
    return message


def duration(length: timedelta | None) -> Duration | None:
    """A message of a length of time; None leaves the field unset."""
    if length is None:
        return None
    message = Duration()
    message.FromTimedelta(length)
    return message


def campaign_message(campaign: Campaign, counters: Counters) -> campaign_pb2.Campaign:
    """A campaign with its counters."""
    content, enqueue = campaign.content, campaign.enqueue
    return campaign_pb2.Campaign(
        campaign_id=str(campaign.campaign_id),
        tenant_id=campaign.tenant_id,
        external_id=campaign.external_id,
        name=content.name,
        text=content.text,
        sender=content.sender,
        audience=audience_message(content.audience),
        priority=types_pb2.Priority.ValueType(int(content.priority)),
        message_class=types_pb2.MessageClass.ValueType(int(content.message_class)),
        state=campaign_pb2.CampaignState.ValueType(int(campaign.state)),
        counters=counters_message(counters),
        scheduled_at=timestamp(campaign.scheduled_at),
        not_after=timestamp(campaign.content.not_after),
        created_at=timestamp(campaign.created_at),
        updated_at=timestamp(campaign.updated_at),
        enqueued_at=timestamp(enqueue.enqueued_at if enqueue else None),
        ended_at=timestamp(campaign.ended_at),
        enqueue_number=campaign.enqueue_number,
        reservation_id=str(enqueue.reservation_id) if enqueue else "",
        trace_id=enqueue.trace_id if enqueue else "",
        etag=campaign.etag,
    )


def counters_message(counters: Counters) -> campaign_pb2.CampaignCounters:
    """Counters with the sums made of them."""
    return campaign_pb2.CampaignCounters(
        total=counters.total,
        queued=counters.queued,
        sent=counters.sent,
        failed=counters.failed,
        unconfirmed=counters.unconfirmed,
        cancelled=counters.cancelled,
        delivered=counters.delivered,
        processed=counters.processed,
        awaiting_report=counters.awaiting_report,
        ambiguous=counters.ambiguous,
        accepted=counters.accepted,
    )


def counters_of(rows: dict[UUID, CampaignCounters], campaign_id: UUID) -> Counters:
    """A campaign's counters among some read."""
    row = rows.get(campaign_id)
    return row.counters if row is not None else Counters()


def status_message(status: CampaignStatus) -> campaign_pb2.CampaignStatus:
    """State and progress."""
    return campaign_pb2.CampaignStatus(
        campaign_id=str(status.campaign_id),
        state=campaign_pb2.CampaignState.ValueType(int(status.state)),
        counters=counters_message(status.counters),
        rate_per_second=status.rate_per_second,
        remaining=duration(status.remaining),
        observed_at=timestamp(status.observed_at),
        hold=None if status.hold is None else hold_message(status.hold),
    )


def hold_message(hold: Hold) -> campaign_pb2.CampaignHold:
    """What holds a campaign."""
    return campaign_pb2.CampaignHold(
        reason=types_pb2.HoldReason.ValueType(int(hold.reason)),
        since=timestamp(hold.since),
        until=timestamp(hold.until),
        batch_reason=reason_number(hold.batch_reason),
        description=hold.description,
    )


def recipient_message(row: RecipientRow) -> campaign_pb2.Recipient:
    """One recipient."""
    return campaign_pb2.Recipient(
        phone=format_e164(row.phone),
        status=campaign_pb2.RecipientStatus.ValueType(int(status_of(row.facts))),
        reason=reason_number(reason_of(row.facts, row.reason)),
        description=row.description,
        provider_message_id=row.provider_message_id,
        updated_at=timestamp(row.updated_at),
        enqueue_number=row.enqueue_number,
        units=row.units,
    )


def event_message(row: EventRow) -> campaign_pb2.CampaignEvent:
    """One event."""
    return campaign_pb2.CampaignEvent(
        sequence=row.sequence,
        kind=campaign_pb2.CampaignEventKind.ValueType(int(row.kind)),
        detail=row.detail,
        at=timestamp(row.at),
    )


def contact_message(contact: Contact) -> contacts_pb2.Contact:
    """One contact."""
    content = contact.content
    return contacts_pb2.Contact(
        phone=format_e164(contact.phone),
        external_id=content.external_id,
        first_name=content.first_name,
        last_name=content.last_name,
        groups=content.groups,
        opted_out=contact.opted_out,
        created_at=timestamp(contact.created_at),
        updated_at=timestamp(contact.updated_at),
        etag=content.etag,
    )


def import_line_message(row: ImportLineRow) -> contacts_pb2.ImportLine:
    """One line that was not imported."""
    return contacts_pb2.ImportLine(
        line_number=row.line_number,
        outcome=contacts_pb2.ImportLineOutcome.ValueType(row.outcome),
        reason=contacts_pb2.ImportLineReason.Value(f"IMPORT_LINE_REASON_{row.reason}"),
        field=row.field,
        message=row.message,
        first_line_number=row.first_line_number or None,
    )


def audience_message(audience: Audience) -> contacts_pb2.Audience:
    """Whom a campaign goes to."""
    if audience.all_contacts:
        return contacts_pb2.Audience(all_contacts=True, exclude_groups=audience.exclude_groups)
    groups = contacts_pb2.GroupSelection(names=audience.groups)
    return contacts_pb2.Audience(groups=groups, exclude_groups=audience.exclude_groups)


def audience_from(check: ArgumentCheck, message: contacts_pb2.Audience) -> Audience:
    """The audience of a request."""
    return check_audience(
        check,
        all_contacts=message.all_contacts,
        groups=list(message.groups.names),
        exclude_groups=list(message.exclude_groups),
    )
