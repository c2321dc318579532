"""A campaign's `not_after`: given with its content, kept by its schedule and its enqueue, handed to the dispatcher."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import text

from bulksms.campaign.v1 import campaign_pb2 as pb
from bulksms.campaign.v1 import results_pb2
from bulksms.types.v1 import types_pb2
from devstack.eventually import eventually
from servicekit.errors import Category

from .campaign_support import TENANT, Service, accepted, outcome, refused

PHONES = [306940000000 + number for number in range(1, 6)]
FAILED = results_pb2.RECIPIENT_OUTCOME_FAILED
TOO_LATE = types_pb2.OUTCOME_REASON_TOO_LATE


def in_(**length: float) -> Timestamp:
    """So long from now."""
    stamp = Timestamp()
    stamp.FromDatetime(datetime.now(UTC) + timedelta(**length))
    return stamp


async def update(service: Service, campaign_id: str, **changes: object) -> pb.Campaign:
    request = pb.UpdateCampaignRequest(
        request_id=str(uuid4()),
        tenant_id=TENANT,
        campaign_id=campaign_id,
        **changes,  # type: ignore[arg-type]
    )
    return (await service.campaigns.UpdateCampaign(request)).campaign


async def schedule(service: Service, campaign_id: str, at: Timestamp) -> None:
    await service.campaigns.ScheduleCampaign(
        pb.ScheduleCampaignRequest(request_id=str(uuid4()), tenant_id=TENANT, campaign_id=campaign_id, scheduled_at=at)
    )


async def let_pass(service: Service) -> None:
    """The end of every campaign that has one has come."""
    async with service.database.begin() as connection:
        await connection.execute(text("UPDATE campaigns SET not_after = clock_timestamp() - interval '1 second'"))


async def test_it_is_kept_replaced_and_taken_away(service: Service) -> None:
    end, later = in_(hours=1), in_(hours=2)
    campaign_id = (await service.create(not_after=end)).campaign_id
    assert (await service.get(campaign_id)).not_after == end
    assert (await update(service, campaign_id, name="Summer")).not_after == end
    assert (await update(service, campaign_id, not_after=later)).not_after == later
    without = await update(service, campaign_id, update_mask=FieldMask(paths=["not_after"]))
    assert not without.HasField("not_after")
    assert not (await service.create()).HasField("not_after")


@pytest.mark.parametrize("length", [{"seconds": -1}, {"days": 367}])
async def test_it_must_lie_in_the_future_and_not_too_far(service: Service, length: dict[str, float]) -> None:
    campaign = await service.create()
    for call in (
        service.create(not_after=in_(**length)),
        update(service, campaign.campaign_id, not_after=in_(**length)),
    ):
        error = await refused(call)
        assert [violation.field for violation in error.field_violations] == ["not_after"]


async def test_a_schedule_lies_before_it(service: Service) -> None:
    campaign_id = (await service.create(not_after=in_(hours=1))).campaign_id
    error = await refused(schedule(service, campaign_id, in_(hours=2)))
    assert [violation.field for violation in error.field_violations] == ["scheduled_at"]
    await schedule(service, campaign_id, in_(minutes=30))
    error = await refused(update(service, campaign_id, not_after=in_(minutes=20)))
    assert [violation.field for violation in error.field_violations] == ["not_after"]


async def test_the_dispatcher_gets_it_with_every_enqueue(service: Service) -> None:
    end = in_(hours=1)
    campaign_id = await service.started(PHONES, not_after=end)
    assert service.dispatcher.only_submission().header.not_after == end
    await service.record(campaign_id, accepted(PHONES[:2]), outcome(FAILED, PHONES[2:]))
    await eventually(lambda: service.is_in(campaign_id, pb.CAMPAIGN_STATE_SENT))
    await service.retry_failed(campaign_id)
    assert [one.header.not_after for one in service.dispatcher.submissions.values()] == [end, end]


async def test_once_it_has_passed_nothing_is_enqueued_or_sent_again(service: Service) -> None:
    sent = await service.started(PHONES, not_after=in_(hours=1))
    await service.record(sent, outcome(FAILED, PHONES, TOO_LATE))
    await eventually(lambda: service.has_event(sent, "RESERVATION_CLOSED"))
    assert {row.reason for row in await service.recipients(sent)} == {TOO_LATE}
    draft = (await service.create(not_after=in_(hours=1))).campaign_id
    await let_pass(service)
    preview = await service.campaigns.PreviewCampaign(pb.PreviewCampaignRequest(tenant_id=TENANT, campaign_id=draft))
    assert list(preview.blockers) == [pb.ENQUEUE_BLOCKER_TOO_LATE]
    reserved = service.ledger.reserve_calls
    for call in (service.enqueue(draft), service.retry_failed(sent)):
        error = await refused(call)
        assert (error.reason, error.category) == ("TOO_LATE", Category.WRONG_STATE)
        assert error.metadata["not_after"]
    assert service.ledger.reserve_calls == reserved


async def test_a_campaign_scheduled_for_a_time_at_which_nobody_was_there_is_a_draft_again(service: Service) -> None:
    await service.import_phones(PHONES)
    campaign_id = (await service.create(not_after=in_(hours=1))).campaign_id
    await schedule(service, campaign_id, in_(minutes=30))
    await let_pass(service)
    async with service.database.begin() as connection:
        await connection.execute(text("UPDATE tasks SET due_at = clock_timestamp() WHERE kind = 4"))
    await eventually(lambda: service.has_event(campaign_id, "ENQUEUE_REFUSED"))
    assert (await service.get(campaign_id)).state == pb.CAMPAIGN_STATE_DRAFT
