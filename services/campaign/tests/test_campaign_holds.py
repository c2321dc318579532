"""What keeps a campaign from being sent: seen in its status, and in its history when it lasts."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import text

from bulksms.campaign.v1 import campaign_pb2 as pb
from bulksms.campaign.v1 import results_pb2
from bulksms.dispatcher.v1 import dispatch_pb2
from bulksms.types.v1 import types_pb2
from bulksms_campaign.domain.holds import Hold, HoldReason
from bulksms_campaign.storage.tasks import TaskKind
from bulksms_campaign.workers import standstill
from devstack.eventually import eventually
from servicekit import errors

from .campaign_support import TENANT, Service, accepted, outcome

PHONES = [306940000000 + number for number in range(1, 6)]
NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
REFUSED, LIMIT = HoldReason.ACCOUNT_REFUSED, HoldReason.TENANT_LIMIT


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standstill, "LOOK_EVERY", timedelta(milliseconds=50))


def a_hold(reason: HoldReason, ago: timedelta, **known: object) -> dispatch_pb2.GetCampaignHoldResponse:
    response = dispatch_pb2.GetCampaignHoldResponse(reason=types_pb2.HoldReason.ValueType(int(reason)), **known)  # type: ignore[arg-type]
    response.since.FromDatetime(datetime.now(UTC) - ago)
    return response


async def status(service: Service, campaign_id: str) -> pb.CampaignStatus:
    request = pb.GetCampaignStatusRequest(tenant_id=TENANT, campaign_id=campaign_id)
    return (await service.campaigns.GetCampaignStatus(request)).status


async def held_by(service: Service, campaign_id: str) -> str:
    """The reason that its status has; empty for none."""
    found = await status(service, campaign_id)
    return HoldReason(found.hold.reason).name if found.HasField("hold") else ""


async def is_held_by(service: Service, campaign_id: str, reason: str) -> bool:
    return await held_by(service, campaign_id) == reason


async def details(service: Service, campaign_id: str, kind: str) -> list[str]:
    request = pb.ListEventsRequest(tenant_id=TENANT, campaign_id=campaign_id, page_size=1000)
    wanted = pb.CampaignEventKind.Value(f"CAMPAIGN_EVENT_KIND_{kind}")
    return [event.detail for event in (await service.campaigns.ListEvents(request)).events if event.kind == wanted]


async def test_a_status_says_what_holds_the_campaign_since_when_and_until_when(service: Service) -> None:
    campaign_id = await service.started(PHONES)
    await eventually(lambda: is_held_by(service, campaign_id, ""))
    until = Timestamp()
    until.FromDatetime(datetime.now(UTC) + timedelta(minutes=1))
    service.dispatcher.campaign_hold = a_hold(
        REFUSED, timedelta(0), until=until, batch_reason=types_pb2.OUTCOME_REASON_ACCOUNT_REFUSED
    )
    await eventually(lambda: is_held_by(service, campaign_id, "ACCOUNT_REFUSED"))
    hold = (await status(service, campaign_id)).hold
    assert (hold.since, hold.until) == (service.dispatcher.campaign_hold.since, until)
    assert hold.batch_reason == types_pb2.OUTCOME_REASON_ACCOUNT_REFUSED
    service.dispatcher.campaign_hold = a_hold(HoldReason.STOPPED, timedelta(0), description="wrong price in the text")
    await eventually(lambda: is_held_by(service, campaign_id, "STOPPED"))
    assert (await status(service, campaign_id)).hold.description == "wrong price in the text"
    service.dispatcher.campaign_hold = dispatch_pb2.GetCampaignHoldResponse()
    await eventually(lambda: is_held_by(service, campaign_id, ""))
    assert not {"HOLD_BEGAN", "HOLD_ENDED"} & set(await service.events(campaign_id)), "what passes is no event"


async def test_a_watcher_is_told_when_something_begins_to_hold_the_campaign(service: Service) -> None:
    campaign_id = await service.started(PHONES)
    await eventually(lambda: is_held_by(service, campaign_id, ""))
    watch = service.campaigns.WatchCampaign(
        pb.WatchCampaignRequest(tenant_id=TENANT, campaign_id=campaign_id, max_rate=20)
    )
    messages = aiter(watch)
    assert not (await anext(messages)).status.HasField("hold")
    service.dispatcher.campaign_hold = a_hold(HoldReason.BREAKER_OPEN, timedelta(0))
    assert (await anext(messages)).status.hold.reason == types_pb2.HOLD_REASON_BREAKER_OPEN
    watch.cancel()


async def test_the_history_tells_once_of_a_hold_that_lasts_and_once_of_its_end(service: Service) -> None:
    campaign_id = await service.started(PHONES)
    service.dispatcher.campaign_hold = a_hold(REFUSED, timedelta(seconds=11))
    await eventually(lambda: service.has_event(campaign_id, "HOLD_BEGAN"))
    service.dispatcher.campaign_hold = a_hold(HoldReason.PROVIDER_UNAVAILABLE, timedelta(seconds=11))

    async def twice() -> bool:
        return len(await details(service, campaign_id, "HOLD_BEGAN")) == 2

    await eventually(twice)
    service.dispatcher.campaign_hold = dispatch_pb2.GetCampaignHoldResponse()
    await eventually(lambda: service.has_event(campaign_id, "HOLD_ENDED"))
    first, second = await details(service, campaign_id, "HOLD_BEGAN")
    assert first.startswith("ACCOUNT_REFUSED since ")
    assert second.startswith("PROVIDER_UNAVAILABLE since ")
    assert await details(service, campaign_id, "HOLD_ENDED") == ["PROVIDER_UNAVAILABLE no more"]


async def test_a_campaign_that_is_being_launched_says_so_and_one_without_a_dispatcher_that_it_is_away(
    service: Service,
) -> None:
    service.dispatcher.hold = asyncio.Event()
    await service.import_phones(PHONES)
    campaign_id = (await service.create()).campaign_id
    await service.enqueue(campaign_id)
    await eventually(lambda: is_held_by(service, campaign_id, "LAUNCHING"))
    service.dispatcher.down = True
    await eventually(lambda: is_held_by(service, campaign_id, "DISPATCHER_UNAVAILABLE"))
    service.dispatcher.down = False
    service.dispatcher.hold.set()
    await eventually(lambda: service.has_event(campaign_id, "SUBMITTED"), 20)
    await eventually(lambda: is_held_by(service, campaign_id, ""))


async def test_an_ended_campaign_is_held_by_nothing_and_is_asked_about_no_more(service: Service) -> None:
    campaign_id = await service.started(PHONES)
    service.dispatcher.campaign_hold = a_hold(REFUSED, timedelta(0))
    await eventually(lambda: is_held_by(service, campaign_id, "ACCOUNT_REFUSED"))
    await service.record(campaign_id, outcome(results_pb2.RECIPIENT_OUTCOME_FAILED, PHONES))
    await eventually(lambda: service.is_in(campaign_id, pb.CAMPAIGN_STATE_FAILED))
    assert await held_by(service, campaign_id) == ""

    async def rows() -> bool:
        async with service.database.connect() as connection:
            left = await connection.execute(
                text("""
                SELECT (SELECT count(*) FROM campaign_holds WHERE campaign_id = :id)
                     + (SELECT count(*) FROM tasks WHERE subject = :id AND kind = :kind)
                """),
                {"id": UUID(campaign_id), "kind": TaskKind.WATCH_HOLD},
            )
            return int(left.scalar_one()) == 0

    await eventually(rows)
    service.dispatcher.campaign_hold = dispatch_pb2.GetCampaignHoldResponse()
    await service.retry_failed(campaign_id)
    service.dispatcher.campaign_hold = a_hold(LIMIT, timedelta(0))
    await eventually(lambda: is_held_by(service, campaign_id, "TENANT_LIMIT"))
    await service.record(campaign_id, accepted(PHONES), enqueue_number=2)


async def test_a_scheduled_campaign_whose_time_has_come_says_that_the_ledger_is_away(service: Service) -> None:
    async def away(_: str) -> None:
        raise errors.unavailable("DOWN", "Down for the test.")

    await service.import_phones(PHONES)
    campaign_id = (await service.create()).campaign_id
    service.ledger.before_response = away
    at = Timestamp()
    at.FromDatetime(datetime.now(UTC) + timedelta(seconds=1))
    await service.campaigns.ScheduleCampaign(
        pb.ScheduleCampaignRequest(request_id=str(uuid4()), tenant_id=TENANT, campaign_id=campaign_id, scheduled_at=at)
    )
    await eventually(lambda: is_held_by(service, campaign_id, "LEDGER_UNAVAILABLE"), 20)
    service.ledger.before_response = None
    await eventually(lambda: service.has_event(campaign_id, "SUBMITTED"), 20)
    await eventually(lambda: is_held_by(service, campaign_id, ""))


@pytest.mark.parametrize(
    ("hold", "seconds", "noted"),
    [
        (Hold(reason=REFUSED, since=NOON), 9, False),
        (Hold(reason=REFUSED, since=NOON), 10, True),
        (Hold(reason=LIMIT, since=NOON, until=NOON), 60, False),
        (Hold(reason=LIMIT, since=NOON), 60, True),
        (Hold(reason=HoldReason.PAUSED, since=NOON), 60, False),
        (Hold(reason=HoldReason.LAUNCHING, since=NOON), 60, False),
    ],
    ids=lambda value: value.reason.name if isinstance(value, Hold) else str(value),
)
def test_the_history_tells_of_what_lasts_and_is_not_how_sending_goes(hold: Hold, seconds: int, noted: bool) -> None:
    assert hold.is_noted(NOON + timedelta(seconds=seconds)) is noted


def test_a_hold_that_goes_on_began_when_it_was_first_seen() -> None:
    first, later = Hold(reason=REFUSED, since=NOON), Hold(reason=REFUSED, since=NOON + timedelta(seconds=5))
    assert later.following(first).since == NOON
    assert later.following(Hold(reason=LIMIT, since=NOON)).since == later.since
    assert later.following(None) == later


def test_words_for_people_say_what_is_known() -> None:
    hold = Hold(
        reason=HoldReason.BREAKER_OPEN, since=NOON, until=NOON + timedelta(minutes=1), batch_reason="READ_TIMEOUT"
    )
    assert str(hold) == ("BREAKER_OPEN (READ_TIMEOUT) since 2026-07-01 12:00:00+00:00 until 2026-07-01 12:01:00+00:00")
    stopped = Hold(reason=HoldReason.STOPPED, since=NOON, description="wrong price")
    assert str(stopped) == "STOPPED since 2026-07-01 12:00:00+00:00: wrong price"
