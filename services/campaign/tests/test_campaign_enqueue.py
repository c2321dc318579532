"""Enqueue: refusals that change nothing, repeats that do nothing, and reservations that are never forgotten."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import event, text

from bulksms.campaign.v1 import campaign_pb2 as pb
from bulksms.campaign.v1 import results_pb2
from bulksms_campaign.domain.campaigns import Step
from bulksms_campaign.peers.ledger import LedgerPeer
from bulksms_campaign.storage.requests import MutationKey
from bulksms_campaign.storage.tasks import TaskKind
from bulksms_campaign.use_cases.enqueue import Enqueue
from bulksms_campaign.use_cases.signals import Signals
from devstack.eventually import eventually
from servicekit import errors
from servicekit.grpc.server import GrpcServer

from .campaign_support import TENANT, Service, accepted, audience, outcome, refused

PHONES = [306940000000 + number for number in range(1, 11)]


async def draft(service: Service) -> str:
    await service.import_phones(PHONES)
    return (await service.create()).campaign_id


async def unused_reservations_are_due(service: Service) -> None:
    async with service.database.begin() as connection:
        await connection.execute(
            text(f"UPDATE tasks SET due_at = now() WHERE kind = {int(TaskKind.CLOSE_RESERVATION)}")
        )


async def nothing_is_reserved(service: Service) -> bool:
    return not service.ledger.open_reservations()


async def test_an_unknown_campaign_is_not_found(service: Service) -> None:
    error = await refused(service.enqueue(str(uuid4())))
    assert (error.reason, error.category.http_status) == ("CAMPAIGN_NOT_FOUND", 404)


async def test_another_tenants_campaign_is_not_found(service: Service) -> None:
    campaign_id = await draft(service)
    request = pb.EnqueueCampaignRequest(request_id=str(uuid4()), tenant_id="other", campaign_id=campaign_id)
    assert (await refused(service.campaigns.EnqueueCampaign(request))).reason == "CAMPAIGN_NOT_FOUND"


async def test_an_empty_audience_is_refused(service: Service) -> None:
    campaign = await service.create(audience=audience("nobody"))
    error = await refused(service.enqueue(campaign.campaign_id))
    assert (error.reason, error.category.http_status) == ("EMPTY_AUDIENCE", 400)
    assert [violation.field for violation in error.field_violations] == ["audience"]


@pytest.mark.parametrize(
    ("obstacle", "reason", "status"),
    [
        ({"available": 9}, "INSUFFICIENT_CREDITS", 402),
        ({"active": False}, "SUBSCRIPTION_INACTIVE", 403),
        ({"known": False}, "ACCOUNT_NOT_FOUND", 404),
    ],
)
async def test_what_the_ledger_refuses_leaves_the_campaign_as_it_was_and_can_be_put_right(
    service: Service, obstacle: dict[str, Any], reason: str, status: int
) -> None:
    campaign_id = await draft(service)
    before = await service.get(campaign_id)
    for name, value in obstacle.items():
        setattr(service.ledger, name, value)
    request_id = str(uuid4())
    error = await refused(service.enqueue(campaign_id, request_id))
    assert (error.reason, error.category.http_status) == (reason, status)
    assert await service.get(campaign_id) == before
    assert "ENQUEUE_REFUSED" in await service.events(campaign_id)
    preview = await service.campaigns.PreviewCampaign(
        pb.PreviewCampaignRequest(tenant_id=TENANT, campaign_id=campaign_id)
    )
    assert list(preview.blockers) == [pb.EnqueueBlocker.Value(f"ENQUEUE_BLOCKER_{reason}")]
    service.ledger.available, service.ledger.active, service.ledger.known = 10, True, True
    # The ledger stores its refusals for ever: the next try must not be answered with the old one.
    assert (await service.enqueue(campaign_id, request_id)).created == 10


@pytest.mark.parametrize("service_settings", [{"sms_batch_size": "auto", "sms_batch_size_max": 4}])
async def test_where_batches_follow_the_provider_their_number_is_that_of_the_largest(service: Service) -> None:
    enqueued = await service.enqueue(await draft(service))
    assert (enqueued.created, enqueued.enqueued_jobs) == (10, 3)


async def test_enqueueing_twice_is_a_wrong_state_and_the_same_request_is_a_repeat(service: Service) -> None:
    campaign_id = await draft(service)
    request_id = str(uuid4())
    first = await service.enqueue(campaign_id, request_id)
    again = await service.enqueue(campaign_id, request_id)
    assert (first.replayed, again.replayed) == (False, True)
    assert (again.created, again.enqueued_jobs) == (first.created, first.enqueued_jobs) == (10, 1)
    error = await refused(service.enqueue(campaign_id))
    assert (error.reason, error.category.http_status) == ("CAMPAIGN_STATE", 409)
    assert error.metadata["state"] == "SENDING"
    assert error.metadata["allowed"] == "DRAFT, SCHEDULED"
    assert len(service.ledger.reservations) == 1


async def test_an_enqueue_takes_nine_statements_at_most(service: Service, peers: GrpcServer) -> None:
    """Its caller waits for every one of them: what is worth one more should be worth this number, too."""
    campaign_id = UUID(await draft(service))
    statements: list[str] = []

    def log(connection: Any, _record: Any, _proxy: Any) -> None:
        connection.driver_connection.add_query_logger(lambda query: statements.append(query.query))

    event.listen(service.database.engine.sync_engine, "checkout", log, once=True)
    ledger = LedgerPeer(peers.address, timeout=timedelta(seconds=5))
    enqueue = Enqueue(service.database, ledger, Signals(), batch_size=5000)
    key = MutationKey.of(TENANT, uuid4(), "EnqueueCampaign", campaign_id)
    enqueued = await enqueue.run(key, campaign_id, Step.ENQUEUE)
    await ledger.close()
    assert enqueued.created == 10
    assert statements[0] == "BEGIN"
    assert statements[-1] == "COMMIT"
    assert len(statements) <= 9


async def test_a_schema_expanded_under_a_running_service_fails_no_enqueue(service: Service) -> None:
    await service.import_phones(PHONES)
    drafts = [(await service.create(name=str(number))).campaign_id for number in range(12)]
    for campaign_id in drafts[:6]:  # its connections have the statements prepared
        await service.enqueue(campaign_id)
    async with service.database.begin() as connection:
        for table in ("campaigns", "requests", "reservations", "contact_counts", "tasks", "enqueues"):
            await connection.execute(text(f"ALTER TABLE {table} ADD COLUMN of_the_next_release integer"))
    for campaign_id in drafts[6:]:
        assert (await service.enqueue(campaign_id)).created == 10


async def test_an_enqueue_under_a_request_id_of_something_else_is_refused_and_keeps_no_reservation(
    service: Service,
) -> None:
    campaign_id = await draft(service)
    request_id = str(uuid4())

    async def use_the_id(call: str) -> None:
        service.ledger.before_response = None
        if call == "Reserve":
            await service.create(request_id=request_id)

    service.ledger.before_response = use_the_id
    before = await service.get(campaign_id)
    assert (await refused(service.enqueue(campaign_id, request_id))).reason == "REQUEST_ID_REUSED"
    assert (await refused(service.enqueue(campaign_id, request_id))).reason == "REQUEST_ID_REUSED"
    assert await service.get(campaign_id) == before
    await unused_reservations_are_due(service)
    await eventually(lambda: nothing_is_reserved(service), 20)


async def test_of_many_enqueues_at_once_one_wins_and_one_reservation_is_made(service: Service) -> None:
    campaign_id = await draft(service)
    outcomes = await asyncio.gather(*(service.enqueue(campaign_id) for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(item, pb.EnqueueCampaignResponse) for item in outcomes) == 1
    assert len(service.ledger.open_reservations()) == 1
    await eventually(lambda: service.has_event(campaign_id, "SUBMITTED"), 20)
    assert service.dispatcher.only_submission().phones == PHONES


async def test_many_repeats_of_one_request_at_once_all_get_the_answer(service: Service) -> None:
    campaign_id = await draft(service)
    request_id = str(uuid4())
    answers = await asyncio.gather(*(service.enqueue(campaign_id, request_id) for _ in range(6)))
    assert sorted(answer.replayed for answer in answers) == [False] + [True] * 5
    assert len(service.ledger.reservations) == 1


async def test_a_reply_of_the_ledger_that_got_lost_is_found_by_the_next_attempt(service: Service) -> None:
    campaign_id = await draft(service)

    async def lose(_: str) -> None:
        raise errors.unavailable("LOST", "Lost after the decision was stored.")

    service.ledger.before_response = lose
    request_id = str(uuid4())
    error = await refused(service.enqueue(campaign_id, request_id))
    assert (error.reason, error.category.http_status) == ("LEDGER_UNAVAILABLE", 503)
    assert error.retryable
    assert len(service.ledger.open_reservations()) == 1
    assert (await service.get(campaign_id)).state == pb.CAMPAIGN_STATE_DRAFT
    service.ledger.before_response = None
    assert (await service.enqueue(campaign_id, request_id)).created == 10
    assert len(service.ledger.open_reservations()) == 1


async def test_a_lost_reservation_of_another_size_is_closed(service: Service) -> None:
    campaign_id = await draft(service)

    async def lose(_: str) -> None:
        raise errors.unavailable("LOST", "Lost after the decision was stored.")

    service.ledger.before_response = lose
    await refused(service.enqueue(campaign_id))
    service.ledger.before_response = None
    await service.import_phones([306940000999])
    assert (await service.enqueue(campaign_id)).created == 11

    async def one_reservation_is_open() -> bool:
        return [item.units for item in service.ledger.open_reservations()] == [11]

    await eventually(one_reservation_is_open, 20)


async def test_a_reservation_nobody_came_back_for_is_closed(service: Service) -> None:
    campaign_id = await draft(service)

    async def lose(_: str) -> None:
        raise errors.unavailable("LOST", "Lost after the decision was stored.")

    service.ledger.before_response = lose
    await refused(service.enqueue(campaign_id))
    service.ledger.before_response = None
    await unused_reservations_are_due(service)
    await eventually(lambda: nothing_is_reserved(service), 20)
    assert service.ledger.available == 1_000_000
    assert (await service.enqueue(campaign_id)).created == 10


async def test_a_reservation_the_ledger_never_heard_of_is_closed_too(service: Service) -> None:
    campaign_id = await draft(service)
    service.ledger.before_response = None

    async def never_arrives(_: str) -> None:
        service.ledger.decisions.clear()
        service.ledger.reservations.clear()
        service.ledger.available = 1_000_000
        raise errors.unavailable("LOST", "As if it had never arrived.")

    service.ledger.before_response = never_arrives
    await refused(service.enqueue(campaign_id))
    service.ledger.before_response = None
    await unused_reservations_are_due(service)

    async def no_task_is_left() -> bool:
        async with service.database.connect() as connection:
            return not (await connection.execute(text("SELECT subject FROM tasks"))).all()

    await eventually(no_task_is_left, 20)
    assert await nothing_is_reserved(service)
    assert service.ledger.available == 1_000_000


async def test_a_campaign_changed_while_it_is_enqueued_is_not_sent_unseen(service: Service) -> None:
    campaign_id = await draft(service)

    async def change(call: str) -> None:
        service.ledger.before_response = None
        if call == "Reserve":
            await service.campaigns.UpdateCampaign(
                pb.UpdateCampaignRequest(
                    request_id=str(uuid4()), tenant_id=TENANT, campaign_id=campaign_id, text="Other"
                )
            )

    service.ledger.before_response = change
    error = await refused(service.enqueue(campaign_id))
    assert error.reason == "CAMPAIGN_CHANGED"
    assert error.retryable
    await eventually(lambda: nothing_is_reserved(service), 20)
    assert (await service.enqueue(campaign_id)).campaign.text == "Other"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"text": ""}, "text"),
        ({"text": "   "}, "text"),
        ({"text": "x" * 1601}, "text"),
        ({"text": "Hi {{nickname}}"}, "text"),
        ({"text": "Hi {{first_name"}, "text"),
        ({"sender": ""}, "sender"),
        ({"sender": "ab"}, "sender"),
        ({"sender": "Ünïcode"}, "sender"),
        ({"sender": "TwelveLetter"}, "sender"),
        ({"name": ""}, "name"),
        ({"audience": None}, "audience"),
        ({"tenant_id": ""}, "tenant_id"),
        ({"request_id": "1"}, "request_id"),
        ({"priority": 9}, "priority"),
    ],
)
async def test_a_campaign_that_could_not_be_sent_cannot_be_made(
    service: Service, changes: dict[str, Any], field: str
) -> None:
    error = await refused(service.create(**changes))
    assert error.reason == "INVALID_ARGUMENT"
    assert [violation.field for violation in error.field_violations] == [field]
    assert error.field_violations[0].description


async def test_everything_wrong_is_said_at_once(service: Service) -> None:
    error = await refused(service.create(text="", sender="!", name=""))
    assert {violation.field for violation in error.field_violations} == {"text", "sender", "name"}


async def test_failed_recipients_can_be_sent_to_again_under_a_new_reservation(service: Service) -> None:
    campaign_id = await service.started(PHONES)
    failed = outcome(results_pb2.RECIPIENT_OUTCOME_FAILED, PHONES[7:9])
    unknown = outcome(results_pb2.RECIPIENT_OUTCOME_UNRESOLVED, PHONES[9:])
    await service.record(campaign_id, accepted(PHONES[:7]), failed, unknown)
    first = (await service.get(campaign_id)).reservation_id
    service.ledger.captured_units[first] = 7
    await eventually(lambda: nothing_is_reserved(service), 20)
    # One more fails after it was accepted: its credit is spent, and it may be tried again.
    await service.report((f"m{PHONES[0]}", results_pb2.DELIVERY_STATUS_FAILED))

    again = await service.campaigns.RetryFailedRecipients(
        pb.RetryFailedRecipientsRequest(request_id=str(uuid4()), tenant_id=TENANT, campaign_id=campaign_id)
    )
    assert again.created == 3
    second = again.campaign.reservation_id
    assert second != first

    async def submitted() -> bool:
        return len(service.dispatcher.submissions) == 2

    await eventually(submitted, 20)
    await eventually(lambda: service.is_in(campaign_id, pb.CAMPAIGN_STATE_SENDING), 20)
    phones = [PHONES[0], *PHONES[7:9]]

    async def handed_over() -> bool:
        return [s.phones for s in service.dispatcher.submissions.values() if s.header.enqueue_number == 2] == [phones]

    await eventually(handed_over, 20)
    assert await service.record(campaign_id, accepted(phones, "again"), enqueue_number=2) == 3
    service.ledger.captured_units[second] = 3
    await eventually(lambda: nothing_is_reserved(service), 20)
    counters = (await service.get(campaign_id)).counters
    assert (counters.total, counters.sent, counters.failed, counters.unconfirmed) == (10, 9, 0, 1)
    assert counters.accepted == 10
    assert (await service.recount(campaign_id)).consistent
