"""A campaign from its contacts to its last delivery report, through the service's RPCs."""

from __future__ import annotations

from bulksms.campaign.v1 import campaign_pb2, results_pb2
from bulksms.ledger.v1 import ledger_pb2
from bulksms.types.v1 import types_pb2
from devstack.eventually import eventually

from .campaign_support import Service, accepted, outcome

PHONES = [306940000000 + number for number in range(1, 13)]


async def test_a_campaign_goes_from_a_csv_to_its_delivery_reports(service: Service) -> None:
    report = await service.import_csv(
        "phone,first_name,last_name\n"
        + "".join(f"+{phone},Άννα{phone % 100},P\n" for phone in PHONES)
        + f"+{PHONES[0]},again,x\nnonsense,a,b\n"
    )
    assert (report.lines, report.imported, report.created, report.duplicates, report.rejected) == (14, 12, 12, 1, 1)

    campaign = await service.create(text="Γεια {{first_name|φίλε}}!")
    preview = await service.campaigns.PreviewCampaign(
        campaign_pb2.PreviewCampaignRequest(tenant_id="acme", campaign_id=campaign.campaign_id)
    )
    assert (preview.recipients, preview.parts, preview.credits, preview.batches) == (12, 12, 12, 1)
    assert preview.samples[0].text == "Γεια Άννα1!"
    assert not preview.blockers

    enqueued = await service.enqueue(campaign.campaign_id)
    assert (enqueued.created, enqueued.enqueued_jobs, enqueued.replayed) == (12, 1, False)
    assert enqueued.campaign.state == campaign_pb2.CAMPAIGN_STATE_SENDING
    assert enqueued.campaign.counters.queued == 12
    await eventually(lambda: service.has_event(campaign.campaign_id, "SUBMITTED"), 20)
    submission = service.dispatcher.only_submission()
    assert submission.phones == PHONES
    assert submission.values[0] == "Άννα1"
    assert list(submission.header.variable_names) == ["first_name"]

    changed = await service.record(
        campaign.campaign_id,
        accepted(PHONES[:10]),
        outcome(results_pb2.RECIPIENT_OUTCOME_FAILED, PHONES[10:], types_pb2.OUTCOME_REASON_PROVIDER_REJECTED),
    )
    assert changed == 12
    service.ledger.captured_units[enqueued.campaign.reservation_id] = 10
    await eventually(lambda: service.has_event(campaign.campaign_id, "RESERVATION_CLOSED"), 20)
    reservation = service.ledger.reservations[enqueued.campaign.reservation_id]
    assert (reservation.state, reservation.captured, reservation.released) == (
        ledger_pb2.RESERVATION_STATE_CLOSED,
        10,
        2,
    )

    answer = await service.report(
        *((f"m{phone}", results_pb2.DELIVERY_STATUS_DELIVERED) for phone in PHONES[:9]),
        (f"m{PHONES[9]}", results_pb2.DELIVERY_STATUS_FAILED),
        ("unknown", results_pb2.DELIVERY_STATUS_DELIVERED),
    )
    assert list(answer.unknown_indexes) == [10]
    ended = await service.get(campaign.campaign_id)
    assert ended.state == campaign_pb2.CAMPAIGN_STATE_SENT
    counters = ended.counters
    assert (counters.total, counters.queued, counters.sent, counters.failed) == (12, 0, 9, 3)
    assert (counters.delivered, counters.accepted, counters.awaiting_report) == (9, 10, 0)
    assert (await service.recount(campaign.campaign_id)).consistent
    assert await service.events(campaign.campaign_id) == [
        "CREATED", "ENQUEUED", "SNAPSHOT_TAKEN", "SUBMITTED", "SENT", "RESERVATION_CLOSED",
    ]  # fmt: skip
    reasons = {recipient.phone: recipient.reason for recipient in await service.recipients(campaign.campaign_id)}
    assert {(one.enqueue_number, one.units) for one in await service.recipients(campaign.campaign_id)} == {(1, 1)}
    assert reasons[f"+{PHONES[9]}"] == types_pb2.OUTCOME_REASON_NOT_DELIVERED
    assert reasons[f"+{PHONES[11]}"] == types_pb2.OUTCOME_REASON_PROVIDER_REJECTED
    assert reasons[f"+{PHONES[0]}"] == types_pb2.OUTCOME_REASON_UNSPECIFIED


async def test_a_watch_says_the_status_at_once_and_ends_with_the_last_report(service: Service) -> None:
    campaign_id = await service.started(PHONES)
    watch = service.campaigns.WatchCampaign(
        campaign_pb2.WatchCampaignRequest(tenant_id="acme", campaign_id=campaign_id, max_rate=20, until_delivered=True)
    )
    messages = aiter(watch)
    first = await anext(messages)
    assert first.status.counters.queued == len(PHONES)
    assert not first.final
    await service.record(campaign_id, accepted(PHONES))
    await service.report(*((f"m{phone}", results_pb2.DELIVERY_STATUS_DELIVERED) for phone in PHONES))
    said = [message async for message in messages]
    assert [message.final for message in said] == [False] * (len(said) - 1) + [True]
    assert said[-1].status.counters.delivered == len(PHONES)
    assert said[-1].status.state == campaign_pb2.CAMPAIGN_STATE_SENT


async def test_a_watch_until_delivered_waits_for_what_is_ambiguous_of_an_ended_campaign(service: Service) -> None:
    campaign_id = await service.started(PHONES)
    await service.record(campaign_id, outcome(results_pb2.RECIPIENT_OUTCOME_AMBIGUOUS, PHONES))
    await eventually(lambda: service.is_in(campaign_id, campaign_pb2.CAMPAIGN_STATE_SENT))
    ends = [
        service.campaigns.WatchCampaign(
            campaign_pb2.WatchCampaignRequest(
                tenant_id="acme", campaign_id=campaign_id, max_rate=20, until_delivered=until_delivered
            )
        )
        for until_delivered in (False, True)
    ]
    sending, delivery = map(aiter, ends)
    assert (await anext(sending)).final
    assert not (await anext(delivery)).final
    await service.record(campaign_id, outcome(results_pb2.RECIPIENT_OUTCOME_UNRESOLVED, PHONES))
    said = [message async for message in delivery]
    assert (said[-1].final, said[-1].status.counters.ambiguous) == (True, 0)
