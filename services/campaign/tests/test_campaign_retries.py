"""Sending again to those that failed: a retry erases nothing, and figures of one enqueue never mix with another's."""

from __future__ import annotations

from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from bulksms.campaign.v1 import campaign_pb2 as pb
from bulksms.campaign.v1 import results_pb2
from bulksms_campaign.storage import recipients as rows
from bulksms_campaign.storage.recipients import RecipientFilter
from devstack.eventually import eventually

from .campaign_support import TENANT, Service, accepted, outcome, refused

PHONES = [306940000000 + number for number in range(1, 11)]
DELIVERED, NOT_DELIVERED = results_pb2.DELIVERY_STATUS_DELIVERED, results_pb2.DELIVERY_STATUS_FAILED
FAILED, AMBIGUOUS = results_pb2.RECIPIENT_OUTCOME_FAILED, results_pb2.RECIPIENT_OUTCOME_AMBIGUOUS


async def ended(service: Service, campaign_id: str, *groups: results_pb2.OutcomeGroup, captured: int) -> None:
    """Record the outcomes of the latest enqueue, and wait for its reservation's close."""
    campaign = await service.get(campaign_id)
    service.ledger.captured_units[campaign.reservation_id] = captured
    await service.record(campaign_id, *groups, enqueue_number=campaign.enqueue_number)

    async def closed() -> bool:
        return (await service.events(campaign_id)).count("RESERVATION_CLOSED") == campaign.enqueue_number

    await eventually(closed)


async def half_failed(service: Service) -> str:
    """A campaign of which the last five failed, the last two of them after the provider had accepted them."""
    campaign_id = await service.started(PHONES)
    await ended(service, campaign_id, accepted([*PHONES[:5], *PHONES[8:]]), outcome(FAILED, PHONES[5:8]), captured=7)
    await service.report(*((f"m{phone}", NOT_DELIVERED) for phone in PHONES[8:]))
    return campaign_id


def figures(campaign: pb.Campaign) -> tuple[int, ...]:
    counters = campaign.counters
    return counters.total, counters.queued, counters.sent, counters.failed, counters.delivered, counters.accepted


async def test_a_retry_erases_nothing_of_the_enqueue_before(service: Service) -> None:
    campaign_id = await half_failed(service)
    before = await service.recipients(campaign_id, enqueue_number=1)
    assert (await service.retry_failed(campaign_id)).created == 5
    assert await service.recipients(campaign_id, enqueue_number=1) == before
    again = await service.recipients(campaign_id, enqueue_number=2)
    assert [int(row.phone) for row in again] == PHONES[5:]
    assert {row.status for row in again} == {pb.RECIPIENT_STATUS_QUEUED}
    wrong = pb.ListRecipientsRequest(tenant_id=TENANT, campaign_id=campaign_id, enqueue_number=0)
    error = await refused(service.campaigns.ListRecipients(wrong))
    assert [violation.field for violation in error.field_violations] == ["enqueue_number"]


async def test_each_person_is_listed_and_counted_once_by_the_latest_enqueue(service: Service) -> None:
    campaign_id = await half_failed(service)
    assert figures(await service.get(campaign_id)) == (10, 0, 5, 5, 0, 7)
    await service.retry_failed(campaign_id)
    assert figures(await service.get(campaign_id)) == (10, 5, 5, 0, 0, 7)
    listed = await service.recipients(campaign_id)
    assert [int(row.phone) for row in listed] == PHONES
    assert [row.enqueue_number for row in listed] == [1] * 5 + [2] * 5
    await ended(service, campaign_id, accepted(PHONES[5:9], "again"), outcome(FAILED, PHONES[9:]), captured=4)
    assert figures(await service.get(campaign_id)) == (10, 0, 9, 1, 0, 11)
    third = await service.retry_failed(campaign_id)
    assert (third.created, third.campaign.enqueue_number) == (1, 3)
    assert [row.enqueue_number for row in await service.recipients(campaign_id)] == [1] * 5 + [2] * 4 + [3]
    assert figures(await service.get(campaign_id)) == (10, 1, 9, 0, 0, 11)
    assert (await service.recount(campaign_id)).consistent


async def test_a_late_report_of_the_earlier_enqueue_lands_on_its_own_row_and_moves_no_figure_it_should_not(
    service: Service,
) -> None:
    campaign_id = await half_failed(service)
    await service.retry_failed(campaign_id)
    before = figures(await service.get(campaign_id))
    assert (await service.report((f"m{PHONES[8]}", DELIVERED), (f"m{PHONES[0]}", DELIVERED))).changed == 2
    earlier = {int(row.phone): row.status for row in await service.recipients(campaign_id, enqueue_number=1)}
    assert earlier[PHONES[8]] == pb.RECIPIENT_STATUS_DELIVERED
    latest = {int(row.phone): row.status for row in await service.recipients(campaign_id)}
    assert latest[PHONES[8]] == pb.RECIPIENT_STATUS_QUEUED
    assert latest[PHONES[0]] == pb.RECIPIENT_STATUS_DELIVERED
    total, queued, sent, failed, delivered, messages = before
    assert figures(await service.get(campaign_id)) == (total, queued, sent, failed, delivered + 1, messages)
    assert (await service.recount(campaign_id)).consistent


async def test_a_close_compares_only_what_was_accepted_of_its_own_enqueue(service: Service) -> None:
    campaign_id = await half_failed(service)
    first = (await service.get(campaign_id)).reservation_id
    second = (await service.retry_failed(campaign_id)).campaign.reservation_id
    # Evidence that the first message to one of them had been accepted after all comes while the second is sent.
    await service.record(campaign_id, accepted(PHONES[5:6], "late"), epoch=2, enqueue_number=1)
    await ended(service, campaign_id, accepted(PHONES[5:], "again"), captured=5)
    assert service.ledger.reservations[first].captured == 7
    assert service.ledger.reservations[second].captured == 5
    assert figures(await service.get(campaign_id)) == (10, 0, 10, 0, 0, 13)
    assert (await service.recount(campaign_id)).consistent
    assert "CLOSE_REFUSED" not in await service.events(campaign_id)


async def test_results_of_an_enqueue_that_never_was_change_nothing(service: Service) -> None:
    campaign_id = await service.started(PHONES)
    assert await service.record(campaign_id, accepted(PHONES), enqueue_number=2) == 0
    assert figures(await service.get(campaign_id)) == (10, 10, 0, 0, 0, 0)


async def test_a_retry_waits_for_no_evidence_and_leaves_the_ambiguous_and_the_sent_alone(service: Service) -> None:
    campaign_id = await service.started(PHONES)
    unsure = PHONES[6:]
    await service.record(campaign_id, accepted(PHONES[:3]), outcome(FAILED, PHONES[3:6]), outcome(AMBIGUOUS, unsure))
    await eventually(lambda: service.is_in(campaign_id, pb.CAMPAIGN_STATE_SENT))
    assert (await service.retry_failed(campaign_id)).created == 3
    assert [int(row.phone) for row in await service.recipients(campaign_id, enqueue_number=2)] == PHONES[3:6]
    # Resolved while the others are being sent again: those not sent wait for the next retry, those sent never come.
    await service.record(campaign_id, accepted(unsure[:1]), outcome(FAILED, unsure[1:3]))
    assert figures(await service.get(campaign_id)) == (10, 3, 4, 2, 0, 4)
    await service.record(campaign_id, accepted(PHONES[3:6], "again"), enqueue_number=2)

    async def ended_again() -> bool:
        return (await service.events(campaign_id)).count("SENT") == 2

    await eventually(ended_again)
    assert (await service.retry_failed(campaign_id)).created == 2
    assert [int(row.phone) for row in await service.recipients(campaign_id, enqueue_number=3)] == unsure[1:3]
    assert (await service.get(campaign_id)).counters.ambiguous == 1
    assert (await service.recount(campaign_id)).consistent


async def test_every_enqueue_names_its_number_to_the_ledger_and_its_people_to_the_dispatcher(service: Service) -> None:
    campaign_id = await half_failed(service)
    await service.retry_failed(campaign_id)
    reserved = [(one.campaign_id, one.enqueue_number) for one in service.ledger.reserve_requests.values()]
    assert reserved == [(campaign_id, 1), (campaign_id, 2)]
    first, second = (submission.header for submission in service.dispatcher.submissions.values())
    assert len(first.snapshot_digest) == len(second.snapshot_digest) == 32
    assert first.snapshot_digest != second.snapshot_digest


async def test_who_opted_out_since_is_not_sent_to_again(service: Service) -> None:
    campaign_id = await half_failed(service)
    async with service.database.begin() as connection:
        await connection.execute(
            text("INSERT INTO opt_outs VALUES (:phone, now(), :tenant, 'test')"),
            {"phone": PHONES[5], "tenant": TENANT},
        )
    assert (await service.retry_failed(campaign_id)).created == 4
    assert [int(row.phone) for row in await service.recipients(campaign_id, enqueue_number=2)] == PHONES[6:]
    assert figures(await service.get(campaign_id)) == (10, 4, 5, 1, 0, 7)


async def test_positions_count_from_0_in_phone_order_without_gaps_in_every_enqueue(service: Service) -> None:
    await service.import_phones(PHONES[:3])
    await service.import_phones(PHONES[5:])
    campaign_id = (await service.create()).campaign_id

    async def import_more(_: str) -> None:
        service.ledger.before_response = None
        await service.import_phones(PHONES[3:5])

    service.ledger.before_response = import_more
    assert (await service.enqueue(campaign_id)).created == 8
    await eventually(lambda: service.has_event(campaign_id, "SUBMITTED"))
    sent_to = [*PHONES[:3], *PHONES[5:]]
    assert service.dispatcher.only_submission().phones == sent_to
    await ended(service, campaign_id, accepted(sent_to[1::2]), outcome(FAILED, sent_to[::2]), captured=4)
    await service.retry_failed(campaign_id)
    async with service.database.connect() as connection:
        found = await connection.execute(
            text("""
            SELECT enqueue_number, phone, position, units, launched_on = CAST(now() AS date) FROM recipients
            WHERE campaign_id = :campaign_id ORDER BY 1, 2
            """),
            {"campaign_id": UUID(campaign_id)},
        )
        stored = [tuple(row) for row in found]
    first = [(1, phone, position, 1, True) for position, phone in enumerate(sent_to)]
    assert stored == first + [(2, phone, position, 1, True) for position, phone in enumerate(sent_to[::2])]


@pytest.mark.parametrize("limit", [1, 2, 3, 7])
async def test_pages_of_all_enqueues_have_each_person_once_wherever_they_are_cut(
    service: Service, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(rows, "SCAN_ROWS", 4)
    campaign_id = await half_failed(service)
    await service.retry_failed(campaign_id)
    seen: list[int] = []
    after: int | None = 0
    chosen = RecipientFilter(None, [1, 2], superseded=False)
    async with service.database.connect() as connection:
        while after is not None:
            page, after = await rows.list_recipients(connection, TENANT, UUID(campaign_id), chosen, after, limit)
            seen += [row.phone for row in page]
    assert seen == PHONES


async def test_a_retry_under_way_is_not_repeated_and_a_campaign_without_failures_is_refused(service: Service) -> None:
    campaign_id = await half_failed(service)
    await service.retry_failed(campaign_id)
    request = pb.RetryFailedRecipientsRequest(request_id=str(uuid4()), tenant_id=TENANT, campaign_id=campaign_id)
    assert (await refused(service.campaigns.RetryFailedRecipients(request))).reason == "CAMPAIGN_STATE"
    await ended(service, campaign_id, accepted(PHONES[5:], "again"), captured=5)
    assert (await refused(service.campaigns.RetryFailedRecipients(request))).reason == "EMPTY_AUDIENCE"
