"""What the dispatcher asks the provider about: accepted recipients without a final report, batch by batch."""

from __future__ import annotations

from uuid import uuid4

from bulksms.campaign.v1 import results_pb2
from servicekit.errors import Category

from .campaign_support import TENANT, Service, accepted, outcome, refused

PHONES = [306_900_000_000 + number for number in range(12)]
DELIVERED = results_pb2.DELIVERY_STATUS_DELIVERED
FAILED = results_pb2.DELIVERY_STATUS_FAILED
SENT = results_pb2.DELIVERY_STATUS_SENT


def asking(campaign_id: str, **changes: object) -> results_pb2.ListAwaitedReportsRequest:
    values: dict[str, object] = {
        "tenant_id": TENANT,
        "campaign_id": campaign_id,
        "enqueue_number": 1,
        "after_phone": 0,
        "last_phone": PHONES[-1],
        "page_size": 1000,
    }
    return results_pb2.ListAwaitedReportsRequest(**values | changes)  # type: ignore[arg-type]


async def test_only_accepted_recipients_without_a_final_report_are_awaited(service: Service) -> None:
    campaign_id = await service.started(PHONES)
    failed = outcome(results_pb2.RECIPIENT_OUTCOME_FAILED, PHONES[8:10])
    await service.record(campaign_id, accepted(PHONES[:8]), failed)  # the last two are queued
    await service.report((f"m{PHONES[0]}", DELIVERED), (f"m{PHONES[1]}", FAILED), (f"m{PHONES[2]}", SENT))
    page = await service.results.ListAwaitedReports(asking(campaign_id))
    assert list(page.phones) == PHONES[2:8]
    assert list(page.provider_message_ids) == [f"m{phone}" for phone in PHONES[2:8]]
    part = await service.results.ListAwaitedReports(
        asking(campaign_id, after_phone=PHONES[2], last_phone=PHONES[6], page_size=3)
    )
    assert list(part.phones) == PHONES[3:6]
    other_enqueue = await service.results.ListAwaitedReports(asking(campaign_id, enqueue_number=2))
    assert list(other_enqueue.phones) == []


async def test_a_tenant_hears_nothing_of_another_ones_messages(service: Service) -> None:
    campaign_id = await service.started(PHONES)
    await service.record(campaign_id, accepted(PHONES))
    error = await refused(service.results.ListAwaitedReports(asking(campaign_id, tenant_id="other")))
    assert (error.category, error.reason) == (Category.NOT_FOUND, "CAMPAIGN_NOT_FOUND")
    error = await refused(service.results.ListAwaitedReports(asking(str(uuid4()))))
    assert error.reason == "CAMPAIGN_NOT_FOUND"
    reports = [results_pb2.DeliveryReport(provider_message_id=f"m{PHONES[0]}", status=DELIVERED)]
    answer = await service.results.RecordDeliveryReports(
        results_pb2.RecordDeliveryReportsRequest(reports=reports, tenant_id="other")
    )
    assert (list(answer.unknown_indexes), answer.changed) == ([0], 0)
    answer = await service.results.RecordDeliveryReports(
        results_pb2.RecordDeliveryReportsRequest(reports=reports, tenant_id=TENANT)
    )
    assert (list(answer.unknown_indexes), answer.changed) == ([], 1)
