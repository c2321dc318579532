"""The provider gives one id to two messages: no report of it may be believed of the wrong one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import text
from structlog.testing import capture_logs

from bulksms.campaign.v1 import campaign_pb2 as pb
from bulksms.campaign.v1 import results_pb2
from bulksms.types.v1 import types_pb2
from devstack.eventually import eventually

from .campaign_support import Service, accepted

PHONES = [306940000000 + number for number in range(1, 11)]
DELIVERED = results_pb2.DELIVERY_STATUS_DELIVERED
ALARM = "the provider gave a message id twice"


async def statuses(service: Service, campaign_id: str) -> dict[int, tuple[str, str]]:
    """By phone: status and reason."""
    return {
        int(row.phone): (
            pb.RecipientStatus.Name(row.status).removeprefix("RECIPIENT_STATUS_"),
            types_pb2.OutcomeReason.Name(row.reason).removeprefix("OUTCOME_REASON_") if row.reason else "",
        )
        for row in await service.recipients(campaign_id)
    }


def alarms(logged: Sequence[Any]) -> int:
    return sum((entry["event"], entry["log_level"]) == (ALARM, "error") for entry in logged)


async def test_an_id_that_another_persons_message_has_is_refused_for_that_one_recipient(service: Service) -> None:
    first = await service.started(PHONES[:2])
    await service.record(first, accepted(PHONES[:2]))
    second = (await service.create()).campaign_id
    await service.enqueue(second)
    await eventually(lambda: service.has_event(second, "SUBMITTED"))
    results = accepted(PHONES[:2], "other")
    results.provider_message_ids[1] = f"m{PHONES[0]}"
    with capture_logs() as logged:
        for _ in range(3):  # the same again changes nothing and raises no second alarm
            await service.record(second, results)
    assert alarms(logged) == 1
    assert await statuses(service, second) == {PHONES[0]: ("SENT", ""), PHONES[1]: ("UNCONFIRMED", "ID_KNOWN")}
    await service.report((f"m{PHONES[0]}", DELIVERED), (f"other{PHONES[0]}", DELIVERED))
    assert (await statuses(service, first))[PHONES[0]] == ("DELIVERED", "")
    assert await statuses(service, second) == {PHONES[0]: ("DELIVERED", ""), PHONES[1]: ("UNCONFIRMED", "ID_KNOWN")}
    # It was accepted, so it is paid for, and nothing that could still come would say more of it.
    counters = (await service.get(second)).counters
    assert (counters.accepted, counters.unconfirmed, counters.ambiguous) == (2, 1, 0)
    assert (await service.recount(second)).consistent
    service.ledger.captured_units[(await service.get(second)).reservation_id] = 2
    await eventually(lambda: service.has_event(second, "RESERVATION_CLOSED"))


async def test_an_id_given_twice_in_one_result_is_nobodys(service: Service) -> None:
    campaign_id = await service.started(PHONES)
    results = accepted(PHONES)
    results.provider_message_ids[3] = results.provider_message_ids[7]
    await service.record(campaign_id, results)
    unsure = {phone for phone, (status, _) in (await statuses(service, campaign_id)).items() if status != "SENT"}
    assert unsure == {PHONES[3], PHONES[7]}
    assert list((await service.report((f"m{PHONES[7]}", DELIVERED))).unknown_indexes) == [0]


async def test_an_id_of_the_earlier_message_to_the_same_person_is_another_messages(service: Service) -> None:
    campaign_id = await service.started(PHONES[:2])
    await service.record(campaign_id, accepted(PHONES[:2]))
    await eventually(lambda: service.is_in(campaign_id, pb.CAMPAIGN_STATE_SENT))
    await service.report(*((f"m{phone}", results_pb2.DELIVERY_STATUS_FAILED) for phone in PHONES[:2]))
    await service.retry_failed(campaign_id)
    again = accepted(PHONES[:2], "again")
    again.provider_message_ids[0] = f"m{PHONES[0]}"
    await service.record(campaign_id, again, enqueue_number=2)
    assert await statuses(service, campaign_id) == {PHONES[0]: ("UNCONFIRMED", "ID_KNOWN"), PHONES[1]: ("SENT", "")}
    assert (await service.recount(campaign_id)).consistent


async def test_reports_of_an_id_that_two_people_got_at_the_same_moment_change_neither(service: Service) -> None:
    campaign_id = await service.started(PHONES)
    await service.record(campaign_id, accepted(PHONES[:9]))
    async with service.database.begin() as connection:
        await connection.execute(
            text("UPDATE recipients SET provider_message_id = :id WHERE campaign_id = :campaign_id AND phone = :phone"),
            {"id": f"m{PHONES[0]}", "campaign_id": UUID(campaign_id), "phone": PHONES[1]},
        )
    with capture_logs() as logged:
        answer = await service.report((f"m{PHONES[0]}", DELIVERED), (f"m{PHONES[2]}", DELIVERED))
    assert (list(answer.unknown_indexes), answer.changed) == ([], 1)
    found = await statuses(service, campaign_id)
    assert [found[phone][0] for phone in PHONES[:3]] == ["SENT", "SENT", "DELIVERED"]
    assert alarms(logged) == 1


async def test_results_that_come_at_once_are_recorded_without_a_deadlock(service: Service) -> None:
    campaign_id = await service.started(PHONES)
    halves = accepted(PHONES[:5]), accepted(PHONES[5:])
    await asyncio.gather(*(service.record(campaign_id, half) for half in halves for _ in range(4)))
    assert {status for status, _ in (await statuses(service, campaign_id)).values()} == {"SENT"}
