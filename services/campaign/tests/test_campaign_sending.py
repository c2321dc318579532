"""Launch, results, controls and completion: what goes on after an enqueue."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import text

from bulksms.campaign.v1 import campaign_pb2 as pb
from bulksms.campaign.v1 import contacts_pb2, results_pb2
from bulksms.ledger.v1 import ledger_pb2
from bulksms.types.v1 import types_pb2
from devstack.eventually import eventually

from .campaign_support import TENANT, Service, accepted, audience, outcome, refused

PHONES = [306940000000 + number for number in range(1, 21)]
DELIVERED, SENT = results_pb2.DELIVERY_STATUS_DELIVERED, results_pb2.DELIVERY_STATUS_SENT
FAILED = results_pb2.DELIVERY_STATUS_FAILED
AMBIGUOUS, UNRESOLVED = results_pb2.RECIPIENT_OUTCOME_AMBIGUOUS, results_pb2.RECIPIENT_OUTCOME_UNRESOLVED
NO_REASON = types_pb2.OUTCOME_REASON_UNSPECIFIED
CANCELLED = results_pb2.RECIPIENT_OUTCOME_CANCELLED


@pytest.fixture
def service_settings(request: pytest.FixtureRequest) -> dict[str, Any]:
    return {"submit_chunk_size": 4, "lease_seconds": 2, **getattr(request, "param", {})}


async def control(service: Service, verb: str, campaign_id: str) -> pb.Campaign:
    request = getattr(pb, f"{verb}CampaignRequest")(request_id=str(uuid4()), tenant_id=TENANT, campaign_id=campaign_id)
    campaign: pb.Campaign = (await getattr(service.campaigns, f"{verb}Campaign")(request)).campaign
    return campaign


async def test_a_submission_broken_in_the_middle_goes_on_where_it_was(service: Service) -> None:
    service.dispatcher.break_after = 8
    campaign_id = await service.started(PHONES, text="Hi {{last_name}} {{first_name|you}}")
    submission = service.dispatcher.only_submission()
    assert submission.complete
    assert submission.phones == PHONES
    assert service.dispatcher.streams == 2
    assert list(submission.header.variable_names) == ["last_name", "first_name"]
    assert submission.header.campaign_id == campaign_id
    async with service.database.connect() as connection:
        stored = await connection.execute(text("SELECT snapshot_digest FROM enqueues"))
        assert stored.scalar_one() == submission.header.snapshot_digest


async def test_a_dispatcher_that_is_down_is_waited_for(service: Service) -> None:
    service.dispatcher.down = True
    await service.import_phones(PHONES)
    campaign = await service.create()
    await service.enqueue(campaign.campaign_id)
    await eventually(lambda: service.has_event(campaign.campaign_id, "SNAPSHOT_TAKEN"), 20)
    service.dispatcher.down = False
    await eventually(lambda: service.has_event(campaign.campaign_id, "SUBMITTED"), 20)
    assert service.dispatcher.only_submission().phones == PHONES


async def test_the_snapshot_never_exceeds_what_was_reserved_and_leaves_the_newest_out(service: Service) -> None:
    await service.import_phones(PHONES[5:])
    campaign = await service.create()

    async def import_more(_: str) -> None:
        service.ledger.before_response = None
        await service.import_phones(PHONES[:5])

    service.ledger.before_response = import_more
    assert (await service.enqueue(campaign.campaign_id)).created == 15
    await eventually(lambda: service.has_event(campaign.campaign_id, "SUBMITTED"), 20)
    assert service.dispatcher.only_submission().phones == PHONES[5:]
    assert (await service.get(campaign.campaign_id)).counters.total == 15


async def test_numbers_that_opted_out_after_the_enqueue_are_not_in_the_snapshot(service: Service) -> None:
    await service.import_phones(PHONES[:5])
    campaign = await service.create()

    async def opt_out(_: str) -> None:
        service.ledger.before_response = None
        request = contacts_pb2.OptOutRequest(request_id=str(uuid4()), tenant_id=TENANT, phone=f"+{PHONES[0]}")
        await service.contacts.OptOut(request)

    service.ledger.before_response = opt_out
    enqueued = await service.enqueue(campaign.campaign_id)
    await eventually(lambda: service.has_event(campaign.campaign_id, "SUBMITTED"), 20)
    assert service.dispatcher.only_submission().phones == PHONES[1:5]
    await service.record(campaign.campaign_id, accepted(PHONES[1:5]))
    service.ledger.captured_units[enqueued.campaign.reservation_id] = 4
    await eventually(lambda: service.has_event(campaign.campaign_id, "RESERVATION_CLOSED"), 20)
    assert service.ledger.reservations[enqueued.campaign.reservation_id].released == 1


async def test_an_audience_that_is_gone_at_the_snapshot_fails_the_campaign_and_gives_the_credits_back(
    service: Service,
) -> None:
    await service.import_phones(PHONES[:1])
    campaign = await service.create()

    async def delete(_: str) -> None:
        service.ledger.before_response = None
        await service.contacts.DeleteContact(
            contacts_pb2.DeleteContactRequest(request_id=str(uuid4()), tenant_id=TENANT, phone=f"+{PHONES[0]}")
        )

    service.ledger.before_response = delete
    await service.enqueue(campaign.campaign_id)
    await eventually(lambda: service.has_event(campaign.campaign_id, "RESERVATION_CLOSED"), 20)
    assert (await service.get(campaign.campaign_id)).state == pb.CAMPAIGN_STATE_FAILED
    assert service.ledger.available == 1_000_000


async def test_results_and_reports_in_any_order_and_number_give_the_same_rows_and_true_counters(
    service: Service,
) -> None:
    campaign_id = await service.started(PHONES)
    batches = [
        ([accepted(PHONES[:8]), outcome(results_pb2.RECIPIENT_OUTCOME_FAILED, PHONES[8:10])], 1, str(uuid4())),
        ([outcome(AMBIGUOUS, PHONES[10:16], types_pb2.OUTCOME_REASON_READ_TIMEOUT)], 1, str(uuid4())),
        ([accepted(PHONES[10:14]), outcome(UNRESOLVED, PHONES[14:16])], 1, str(uuid4())),
        ([outcome(results_pb2.RECIPIENT_OUTCOME_OPTED_OUT, PHONES[16:])], 3, str(uuid4())),
        ([outcome(AMBIGUOUS, PHONES[16:18])], 2, str(uuid4())),
    ]
    calls = batches * 3
    random.Random(3).shuffle(calls)
    await asyncio.gather(
        *(service.record(campaign_id, *groups, epoch=epoch, batch_id=batch) for groups, epoch, batch in calls)
    )
    reports = [(f"m{phone}", status) for phone in PHONES[:14] for status in (SENT, DELIVERED)]
    reports += [(f"m{PHONES[0]}", FAILED), (f"m{PHONES[13]}", results_pb2.DELIVERY_STATUS_UNSPECIFIED)]
    reports *= 2
    random.Random(4).shuffle(reports)
    answers = await asyncio.gather(
        *(service.report(*reports[start : start + 7]) for start in range(0, len(reports), 7))
    )
    known = [index for answer in answers for index in answer.unknown_indexes]
    assert len(known) == 2 * 2 * 2, "only reports for the two recipients never accepted are unknown"
    counted = await service.recount(campaign_id)
    assert counted.consistent
    assert counted.kept == pb.CampaignCounters(
        total=20, queued=0, sent=12, failed=6, unconfirmed=2, delivered=12, processed=18, accepted=12
    )
    again = await service.report(*reports)
    assert again.changed == 0


async def test_reports_before_the_result_are_unknown_and_nothing_happens_to_them(service: Service) -> None:
    campaign_id = await service.started(PHONES)
    answer = await service.report((f"m{PHONES[0]}", DELIVERED))
    assert list(answer.unknown_indexes) == [0]
    await service.record(campaign_id, accepted(PHONES))
    assert (await service.report((f"m{PHONES[0]}", DELIVERED))).changed == 1


async def test_a_campaign_ends_when_everybody_was_tried_and_what_is_ambiguous_is_resolved_afterwards(
    service: Service,
) -> None:
    campaign_id = await service.started(PHONES)
    await service.record(campaign_id, accepted(PHONES[:10]))
    await service.record(campaign_id, outcome(AMBIGUOUS, PHONES[10:]), epoch=1)
    await eventually(lambda: service.is_in(campaign_id, pb.CAMPAIGN_STATE_SENT), 20)
    counters = (await service.get(campaign_id)).counters
    assert (counters.sent, counters.unconfirmed, counters.ambiguous) == (10, 10, 10)
    assert {r.reason for r in await service.recipients(campaign_id)} == {NO_REASON, types_pb2.OUTCOME_REASON_AMBIGUOUS}
    reservation_id = (await service.get(campaign_id)).reservation_id
    service.ledger.captured_units[reservation_id] = 10
    await eventually(lambda: service.has_event(campaign_id, "RESERVATION_CLOSED"), 20)
    service.ledger.captured_units[reservation_id] = 14
    await service.record(campaign_id, accepted(PHONES[10:14]))
    await service.record(campaign_id, outcome(UNRESOLVED, PHONES[14:18]))
    await service.record(campaign_id, outcome(results_pb2.RECIPIENT_OUTCOME_FAILED, PHONES[18:]))
    campaign = await service.get(campaign_id)
    assert campaign.state == pb.CAMPAIGN_STATE_SENT
    counters = campaign.counters
    assert (counters.sent, counters.failed, counters.unconfirmed, counters.ambiguous) == (14, 2, 4, 0)
    assert (await service.recount(campaign_id)).consistent
    events = await service.events(campaign_id)
    assert (events.count("SENT"), events.count("RESERVATION_CLOSED")) == (1, 1)


async def test_a_campaign_of_which_everything_is_ambiguous_ends_as_sent(service: Service) -> None:
    campaign_id = await service.started(PHONES)
    await service.record(campaign_id, outcome(AMBIGUOUS, PHONES))
    await eventually(lambda: service.is_in(campaign_id, pb.CAMPAIGN_STATE_SENT), 20)
    assert (await service.get(campaign_id)).counters.ambiguous == len(PHONES)


async def test_a_cancel_does_not_wait_for_evidence(service: Service) -> None:
    campaign_id = await service.started(PHONES)
    await service.record(campaign_id, outcome(AMBIGUOUS, PHONES[:5]))
    await control(service, "Cancel", campaign_id)
    await service.record(campaign_id, outcome(CANCELLED, PHONES[5:], types_pb2.OUTCOME_REASON_CAMPAIGN_CANCELLED))
    await eventually(lambda: service.is_in(campaign_id, pb.CAMPAIGN_STATE_CANCELLED), 20)
    assert (await service.get(campaign_id)).counters.ambiguous == 5


async def test_a_campaign_of_which_nothing_was_accepted_is_failed(service: Service) -> None:
    campaign_id = await service.started(PHONES)
    await service.record(campaign_id, outcome(results_pb2.RECIPIENT_OUTCOME_FAILED, PHONES))
    await eventually(lambda: service.is_in(campaign_id, pb.CAMPAIGN_STATE_FAILED), 20)
    await eventually(lambda: service.has_event(campaign_id, "RESERVATION_CLOSED"), 20)


async def test_a_close_is_repeated_until_the_captures_have_arrived(service: Service) -> None:
    campaign_id = await service.started(PHONES)
    reservation_id = (await service.get(campaign_id)).reservation_id
    service.ledger.captured_units[reservation_id] = 13
    await service.record(campaign_id, accepted(PHONES))

    async def refused_twice() -> bool:
        return sum(decision is not None for decision in service.ledger.decisions.values()) >= 2

    await eventually(refused_twice, 20)
    service.ledger.captured_units[reservation_id] = 20
    await eventually(lambda: service.has_event(campaign_id, "RESERVATION_CLOSED"), 20)
    assert service.ledger.reservations[reservation_id].state == ledger_pb2.RESERVATION_STATE_CLOSED


async def test_pause_and_resume_reach_the_dispatcher(service: Service) -> None:
    campaign_id = await service.started(PHONES)
    assert (await control(service, "Pause", campaign_id)).state == pb.CAMPAIGN_STATE_PAUSED

    async def paused(expected: bool) -> bool:
        return (campaign_id in service.dispatcher.paused) is expected

    await eventually(lambda: paused(True), 1)
    assert (await refused(control(service, "Pause", campaign_id))).reason == "CAMPAIGN_STATE"
    assert (await control(service, "Resume", campaign_id)).state == pb.CAMPAIGN_STATE_SENDING
    await eventually(lambda: paused(False), 1)
    await control(service, "Pause", campaign_id)
    await eventually(lambda: paused(True), 1)
    # What was under way is recorded, and a campaign that is done ends, paused or not.
    await service.record(campaign_id, accepted(PHONES))
    await eventually(lambda: service.is_in(campaign_id, pb.CAMPAIGN_STATE_SENT), 20)


async def test_a_repeated_control_does_nothing_and_answers(service: Service) -> None:
    campaign_id = await service.started(PHONES)
    request = pb.PauseCampaignRequest(request_id=str(uuid4()), tenant_id=TENANT, campaign_id=campaign_id)
    for _ in range(2):
        assert (await service.campaigns.PauseCampaign(request)).campaign.state == pb.CAMPAIGN_STATE_PAUSED
    resume = pb.ResumeCampaignRequest(request_id=request.request_id, tenant_id=TENANT, campaign_id=campaign_id)
    assert (await refused(service.campaigns.ResumeCampaign(resume))).reason == "REQUEST_ID_REUSED"


async def test_cancel_ends_what_is_not_sent_and_gives_its_credits_back(service: Service) -> None:
    campaign_id = await service.started(PHONES)
    reservation_id = (await service.get(campaign_id)).reservation_id
    await service.record(campaign_id, accepted(PHONES[:5]))
    service.ledger.captured_units[reservation_id] = 5
    assert (await control(service, "Cancel", campaign_id)).state == pb.CAMPAIGN_STATE_CANCELLING

    async def asked() -> bool:
        return campaign_id in service.dispatcher.cancelled

    await eventually(asked, 20)
    await service.record(campaign_id, outcome(CANCELLED, PHONES[5:], types_pb2.OUTCOME_REASON_CAMPAIGN_CANCELLED))
    await eventually(lambda: service.has_event(campaign_id, "RESERVATION_CLOSED"), 20)
    campaign = await service.get(campaign_id)
    assert campaign.state == pb.CAMPAIGN_STATE_CANCELLED
    assert (campaign.counters.sent, campaign.counters.cancelled) == (5, 15)
    assert service.ledger.reservations[reservation_id].released == 15
    assert (await refused(control(service, "Resume", campaign_id))).reason == "CAMPAIGN_STATE"


async def test_a_cancel_during_the_submission_cancels_what_the_dispatcher_never_got(service: Service) -> None:
    service.dispatcher.break_after = 8
    service.dispatcher.hold = asyncio.Event()
    await service.import_phones(PHONES)
    campaign_id = (await service.create()).campaign_id
    await service.enqueue(campaign_id)

    async def streaming() -> bool:
        return service.dispatcher.streams == 1

    await eventually(streaming, 20)
    service.dispatcher.hold.set()

    async def eight_are_there() -> bool:
        return any(len(item.phones) >= 8 for item in service.dispatcher.submissions.values())

    await eventually(eight_are_there, 20)
    service.dispatcher.cancelled.add(campaign_id)
    await control(service, "Cancel", campaign_id)
    await eventually(lambda: service.has_event(campaign_id, "SUBMITTED"), 20)
    had = service.dispatcher.only_submission().phones
    counters = (await service.get(campaign_id)).counters
    assert (counters.queued, counters.cancelled) == (len(had), 20 - len(had))
    if counters.queued:
        await service.record(campaign_id, outcome(CANCELLED, had, types_pb2.OUTCOME_REASON_CAMPAIGN_CANCELLED))
    await eventually(lambda: service.is_in(campaign_id, pb.CAMPAIGN_STATE_CANCELLED), 20)
    assert (await service.recount(campaign_id)).consistent


async def test_a_draft_is_cancelled_and_deleted_without_anybody_else(service: Service) -> None:
    campaign_id = (await service.create()).campaign_id
    assert (await control(service, "Cancel", campaign_id)).state == pb.CAMPAIGN_STATE_CANCELLED
    error = await refused(service.campaigns.DeleteCampaign(deletion(campaign_id)))
    assert error.reason == "CAMPAIGN_STATE"
    other = (await service.create()).campaign_id
    delete = deletion(other)
    assert (await service.campaigns.DeleteCampaign(delete)).deleted
    assert not (await service.campaigns.DeleteCampaign(delete)).deleted


def deletion(campaign_id: str) -> pb.DeleteCampaignRequest:
    return pb.DeleteCampaignRequest(request_id=str(uuid4()), tenant_id=TENANT, campaign_id=campaign_id)


def in_a_moment(**delta: float) -> Timestamp:
    moment = Timestamp()
    moment.FromDatetime(datetime.now(UTC) + timedelta(**delta))
    return moment


async def schedule(service: Service, campaign_id: str, at: Timestamp | None) -> pb.Campaign:
    request = pb.ScheduleCampaignRequest(
        request_id=str(uuid4()), tenant_id=TENANT, campaign_id=campaign_id, scheduled_at=at
    )
    return (await service.campaigns.ScheduleCampaign(request)).campaign


async def test_a_scheduled_campaign_is_enqueued_when_its_time_has_come(service: Service) -> None:
    await service.import_phones(PHONES)
    campaign_id = (await service.create()).campaign_id
    scheduled = await schedule(service, campaign_id, in_a_moment(seconds=1))
    assert scheduled.state == pb.CAMPAIGN_STATE_SCHEDULED
    await eventually(lambda: service.has_event(campaign_id, "SUBMITTED"), 20)
    assert service.dispatcher.only_submission().phones == PHONES


async def test_a_schedule_can_be_taken_back_and_cannot_lie_in_the_past(service: Service) -> None:
    campaign_id = (await service.create()).campaign_id
    await schedule(service, campaign_id, in_a_moment(hours=1))
    assert (await schedule(service, campaign_id, None)).state == pb.CAMPAIGN_STATE_DRAFT
    error = await refused(schedule(service, campaign_id, in_a_moment(seconds=-1)))
    assert [violation.field for violation in error.field_violations] == ["scheduled_at"]


async def test_a_scheduled_campaign_that_is_refused_becomes_a_draft_that_says_why(service: Service) -> None:
    service.ledger.active = False
    await service.import_phones(PHONES)
    campaign_id = (await service.create()).campaign_id
    await schedule(service, campaign_id, in_a_moment(seconds=1))
    await eventually(lambda: service.is_in(campaign_id, pb.CAMPAIGN_STATE_DRAFT), 20)
    assert "ENQUEUE_REFUSED" in await service.events(campaign_id)


async def test_a_launch_left_by_a_dead_replica_is_taken_over(service: Service) -> None:
    await service.import_phones(PHONES)
    campaign_id = (await service.create()).campaign_id
    async with service.database.begin() as connection:
        # As a replica leaves it that was killed right after it had claimed the task.
        await connection.execute(
            text("""
            CREATE FUNCTION lease() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN NEW.lease_id = gen_random_uuid(); NEW.leased_until = now() + interval '1 second'; RETURN NEW; END $$
            """)
        )
        await connection.execute(
            text(
                "CREATE TRIGGER lease BEFORE INSERT ON tasks FOR EACH ROW WHEN (NEW.kind = 1) EXECUTE FUNCTION lease()"
            )
        )
    await service.enqueue(campaign_id)
    await eventually(lambda: service.has_event(campaign_id, "SUBMITTED"), 20)
    assert service.dispatcher.only_submission().phones == PHONES


async def test_recipients_are_listed_by_status_page_by_page(service: Service) -> None:
    campaign_id = await service.started(PHONES)
    await service.record(
        campaign_id, accepted(PHONES[::2]), outcome(results_pb2.RECIPIENT_OUTCOME_FAILED, PHONES[1::2])
    )
    seen, token = [], ""
    while True:
        page = await service.campaigns.ListRecipients(
            pb.ListRecipientsRequest(
                tenant_id=TENANT,
                campaign_id=campaign_id,
                status=pb.RECIPIENT_STATUS_FAILED,
                page_size=3,
                page_token=token,
            )
        )
        seen += [recipient.phone for recipient in page.recipients]
        token = page.next_page_token
        if not token:
            break
    assert seen == [f"+{phone}" for phone in PHONES[1::2]]
    wrong = pb.ListRecipientsRequest(tenant_id=TENANT, campaign_id=campaign_id, page_token="nonsense")
    error = await refused(service.campaigns.ListRecipients(wrong))
    assert [violation.field for violation in error.field_violations] == ["page_token"]


async def test_campaigns_are_listed_newest_first_and_by_state(service: Service) -> None:
    made = [(await service.create(name=f"Number {number}")).campaign_id for number in range(3)]
    await control(service, "Cancel", made[1])
    first = await service.campaigns.ListCampaigns(pb.ListCampaignsRequest(tenant_id=TENANT, page_size=2))
    second = await service.campaigns.ListCampaigns(
        pb.ListCampaignsRequest(tenant_id=TENANT, page_size=2, page_token=first.next_page_token)
    )
    listed = [campaign.campaign_id for page in (first, second) for campaign in page.campaigns]
    assert listed == made[::-1]
    assert second.next_page_token == ""
    cancelled = await service.campaigns.ListCampaigns(
        pb.ListCampaignsRequest(tenant_id=TENANT, state=pb.CAMPAIGN_STATE_CANCELLED)
    )
    assert [campaign.campaign_id for campaign in cancelled.campaigns] == [made[1]]


async def test_an_update_replaces_what_it_names_and_nothing_else(service: Service) -> None:
    campaign = await service.create()
    request = pb.UpdateCampaignRequest(
        request_id=str(uuid4()),
        tenant_id=TENANT,
        campaign_id=campaign.campaign_id,
        text="New {{first_name}}",
        audience=audience("a"),
        priority=types_pb2.PRIORITY_URGENT,
    )
    updated = (await service.campaigns.UpdateCampaign(request)).campaign
    assert (updated.text, updated.name, updated.sender) == ("New {{first_name}}", campaign.name, campaign.sender)
    assert list(updated.audience.groups.names) == ["a"]
    assert updated.priority == types_pb2.PRIORITY_URGENT
    wrong = pb.UpdateCampaignRequest(
        request_id=str(uuid4()), tenant_id=TENANT, campaign_id=campaign.campaign_id, sender="a b c"
    )
    assert (await refused(service.campaigns.UpdateCampaign(wrong))).field_violations[0].field == "sender"


async def test_creating_again_under_the_same_request_id_finds_the_campaign_as_it_is(service: Service) -> None:
    request_id = str(uuid4())
    first = await service.create(request_id=request_id)
    await control(service, "Cancel", first.campaign_id)
    second = await service.create(request_id=request_id)
    assert second.campaign_id == first.campaign_id
    assert second.state == pb.CAMPAIGN_STATE_CANCELLED
    assert (await refused(service.create(request_id=request_id, text="Other"))).reason == "REQUEST_ID_REUSED"


async def test_results_for_an_unknown_campaign_or_twice_the_same_recipient_are_refused(service: Service) -> None:
    assert (await refused(service.record(str(uuid4()), accepted(PHONES)))).reason == "CAMPAIGN_NOT_FOUND"
    campaign_id = await service.started(PHONES)
    doubled = service.record(campaign_id, accepted(PHONES), outcome(AMBIGUOUS, PHONES[:1]))
    assert (await refused(doubled)).reason == "INVALID_ARGUMENT"
