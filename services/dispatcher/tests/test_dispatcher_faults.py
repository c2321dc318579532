"""Every way a provider can misbehave, over a real socket: nobody gets a message twice, everybody gets a status."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest

from bulksms.dispatcher.v1 import queue_pb2
from bulksms_dispatcher.settings import Settings
from devstack.eventually import eventually
from devstack.mitto.behaviours import Behaviour, Latency, PartialRejection

from .dispatcher_support import Dispatcher, Peers, Provider, header, outcome_of, phones, serving, submit, why

RECIPIENTS = 4


async def send_one_batch(dispatcher: Dispatcher, peers: Peers) -> queue_pb2.Batch:
    """Returns the batch once it waits for nothing and its recipients have a status."""
    await submit(dispatcher, phones(RECIPIENTS))
    await eventually(lambda: len(peers.campaign.recipients) == RECIPIENTS)
    batch: queue_pb2.Batch = await eventually(lambda: _resting(dispatcher))
    assert all(reason for outcome, reason, _ in peers.campaign.recipients.values() if outcome != "ACCEPTED")
    return batch


async def _resting(dispatcher: Dispatcher) -> queue_pb2.Batch | None:
    (batch,) = await dispatcher.batches()
    waiting = (queue_pb2.BATCH_STATE_READY, queue_pb2.BATCH_STATE_LEASED, queue_pb2.BATCH_STATE_ARMED)
    return None if batch.state in waiting else batch


AMBIGUOUS_AFTER_ACCEPTANCE = {
    "accept-then-never-respond": "READ_TIMEOUT",
    "accept-then-reset": "CONNECTION_LOST",
    "cut-response": "",
    "accept-then-500": "SERVER_ERROR",
    "accept-then-502": "SERVER_ERROR",
    "accept-then-503": "SERVER_ERROR",
    "ids-short": "ID_COUNT_MISMATCH",
    "ids-long": "ID_COUNT_MISMATCH",
    "ids-repeated": "ID_REPEATED",
    "ids-null": "ID_MISSING",
    "ids-missing": "ID_MISSING",
    "ids-empty": "",
    "html-with-200": "RESPONSE_UNREADABLE",
    "huge-response": "RESPONSE_TOO_LARGE",
    "truncated-json": "RESPONSE_UNREADABLE",
    "empty-response": "RESPONSE_UNREADABLE",
    "slow-drip": "READ_TIMEOUT",
}


SILENCE = {"mitto_soft_timeout_seconds": 1.0, "mitto_hard_timeout_seconds": 2.0}
"""For behaviours whose outcome is that the provider's time is over."""


@pytest.fixture
async def hasty_when_silent(configure: Callable[..., Settings], behaviour: str) -> AsyncIterator[Dispatcher]:
    is_silent = behaviour in ("never-respond", "accept-then-never-respond", "slow-drip")
    async with serving(configure(**SILENCE if is_silent else {})) as running:
        yield running


@pytest.mark.parametrize(("behaviour", "reason"), AMBIGUOUS_AFTER_ACCEPTANCE.items())
async def test_what_may_have_been_sent_is_ambiguous_and_not_sent_again(
    hasty_when_silent: Dispatcher, simulator: Provider, peers: Peers, behaviour: str, reason: str
) -> None:
    simulator.script(behaviour)
    batch = await send_one_batch(hasty_when_silent, peers)

    assert batch.state == queue_pb2.BATCH_STATE_AMBIGUOUS
    assert not reason or why(batch) == reason
    assert batch.reason
    assert peers.campaign.outcomes == {"AMBIGUOUS": RECIPIENTS}
    assert simulator.times_accepted() == {1: RECIPIENTS}
    assert peers.ledger.captures == {}


@pytest.mark.parametrize("behaviour", ["never-respond", "reset", "cut-request", "500", "502", "503"])
async def test_what_the_provider_did_not_take_is_ambiguous_too_because_nobody_can_know(
    hasty_when_silent: Dispatcher, simulator: Provider, peers: Peers, behaviour: str
) -> None:
    simulator.script(behaviour)
    batch = await send_one_batch(hasty_when_silent, peers)

    assert batch.state == queue_pb2.BATCH_STATE_AMBIGUOUS
    assert peers.campaign.outcomes == {"AMBIGUOUS": RECIPIENTS}
    assert simulator.times_accepted() == {}


@pytest.mark.parametrize("behaviour", ["429", "429-retry-after", "401", "403", "404"])
async def test_what_the_provider_refused_whole_is_sent_again_and_only_once(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers, behaviour: str
) -> None:
    simulator.script(behaviour)
    batch = await send_one_batch(dispatcher, peers)

    assert batch.state == queue_pb2.BATCH_STATE_ACCEPTED
    assert simulator.times_accepted() == {1: RECIPIENTS}
    attempts = await dispatcher.attempts(batch.batch_id)
    assert [outcome_of(attempt) for attempt in attempts] == ["REJECTED", "ACCEPTED"]
    assert attempts[0].http_status == int(behaviour[:3])
    assert attempts[1].epoch > attempts[0].epoch


async def test_a_400_fails_the_recipients_for_good(dispatcher: Dispatcher, simulator: Provider, peers: Peers) -> None:
    simulator.script("400")
    batch = await send_one_batch(dispatcher, peers)

    assert batch.state == queue_pb2.BATCH_STATE_REJECTED
    assert peers.campaign.outcomes == {"FAILED": RECIPIENTS}
    assert {reason for _, reason, _ in peers.campaign.recipients.values()} == {"PROVIDER_REJECTED"}


@pytest.mark.parametrize("behaviour", ["413", Behaviour(status=400, error_text="Maximum number of messages exceeded")])
async def test_a_batch_that_is_too_large_is_halved_and_costs_no_retry(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers, behaviour: str | Behaviour
) -> None:
    simulator.script(behaviour, behaviour)
    await submit(dispatcher, phones(RECIPIENTS))
    await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": RECIPIENTS})
    assert sorted(batch.recipients for batch in await dispatcher.batches()) == [1, 1, 2]
    assert [request.messages for request in simulator.requests()][:2] == [4, 2]
    assert simulator.times_accepted() == {1: RECIPIENTS}


@pytest.mark.parametrize("behaviour", ["413", Behaviour(status=400, error_text="The text is too long")])
async def test_a_single_message_that_is_too_large_fails(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers, behaviour: str | Behaviour
) -> None:
    simulator.script(behaviour)
    await submit(dispatcher, phones(1))
    await eventually(lambda: peers.campaign.outcomes == {"FAILED": 1})
    (batch,) = await dispatcher.batches()
    assert (batch.state, why(batch)) == (queue_pb2.BATCH_STATE_REJECTED, "BATCH_TOO_LARGE")


async def test_where_a_400_refuses_whole_the_message_it_names_fails_and_the_others_are_sent_again(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    naming = Behaviour(status=400, error_text="messages[2].destination: no such number")
    async with serving(configure(provider_refuses_whole_on_400=True, queue_max_retries=0)) as dispatcher:
        simulator.script(naming, naming)
        numbers = phones(RECIPIENTS)
        await submit(dispatcher, numbers)
        await eventually(lambda: len(peers.campaign.recipients) == RECIPIENTS)
        failed = [number for number in numbers if peers.campaign.recipients[number][0] == "FAILED"]
        assert failed == [numbers[2], numbers[3]], "the third of the request as sent: of four, then of three"
        assert peers.campaign.outcomes == {"FAILED": 2, "ACCEPTED": 2}
    assert {int(message.destination[1:]) for message in simulator.accepted()} == set(numbers[:2])
    assert simulator.times_accepted() == {1: 2}


async def test_without_that_promise_a_400_fails_everybody(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    simulator.script(Behaviour(status=400, error_text="messages[2].destination: no such number"))
    batch = await send_one_batch(dispatcher, peers)
    assert batch.state == queue_pb2.BATCH_STATE_REJECTED
    assert peers.campaign.outcomes == {"FAILED": RECIPIENTS}


async def test_a_status_that_is_promised_to_accept_nothing_is_sent_again(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    simulator.script("503", "503", "503")
    async with serving(configure(provider_not_accepted_statuses="502,503", queue_max_retries=0)) as dispatcher:
        await submit(dispatcher, phones(RECIPIENTS))
        await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": RECIPIENTS})
        attempts = [
            attempt for batch in await dispatcher.batches() for attempt in await dispatcher.attempts(batch.batch_id)
        ]
        assert [why(attempt) for attempt in attempts if why(attempt)] == ["PROVIDER_UNAVAILABLE"] * 3
    assert simulator.times_accepted() == {1: RECIPIENTS}


async def test_ids_that_were_given_out_before_prove_nothing(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    await submit(dispatcher, phones(RECIPIENTS))
    await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": RECIPIENTS})
    simulator.script("ids-known")
    await submit(dispatcher, phones(RECIPIENTS, first=447_700_900_000))
    await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": RECIPIENTS, "AMBIGUOUS": RECIPIENTS})

    reasons = [why(batch) for batch in await dispatcher.batches()]
    assert reasons == ["", "ID_KNOWN"]


async def test_ids_in_another_order_cannot_be_told_from_the_right_one_and_do_no_more_harm_than_that(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    """The response names no destination: position is all there is. Nobody is sent to twice, everyone has an id."""
    simulator.script("ids-shuffled")
    batch = await send_one_batch(dispatcher, peers)

    assert batch.state == queue_pb2.BATCH_STATE_ACCEPTED
    assert simulator.times_accepted() == {1: RECIPIENTS}
    given = sorted(message_id for _, _, message_id in peers.campaign.recipients.values())
    assert given == sorted(message.message_id for message in simulator.accepted())


async def test_only_the_refused_part_of_a_bulk_fails(dispatcher: Dispatcher, simulator: Provider, peers: Peers) -> None:
    simulator.script(Behaviour(partial=PartialRejection(form="item_error", positions=(1, 3))))
    batch = await send_one_batch(dispatcher, peers)

    assert batch.state == queue_pb2.BATCH_STATE_ACCEPTED
    numbers = phones(RECIPIENTS)
    reported = peers.campaign.recipients
    assert [reported[number][0] for number in numbers] == ["ACCEPTED", "FAILED", "ACCEPTED", "FAILED"]
    truth = {int(message.destination[1:]): message.message_id for message in simulator.accepted()}
    assert {number: reported[number][2] for number in numbers if reported[number][2]} == truth
    await eventually(lambda: peers.ledger.captured == 2)


async def test_what_is_rejected_for_now_is_sent_in_a_batch_of_its_own(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    rejection = PartialRejection(form="item_error", positions=(1, 3), error_text="Handset busy, try later")
    simulator.script(Behaviour(partial=rejection), repeat=1)
    async with serving(configure(retryable_rejections=("try later",))) as dispatcher:
        numbers = phones(RECIPIENTS)
        await submit(dispatcher, numbers)
        await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": RECIPIENTS})
        assert await dispatcher.states() == {"ACCEPTED": 2}
        _, rest = await dispatcher.batches()
        assert (rest.recipients, rest.epoch, rest.attempts) == (2, 1, 1)
    truth = {int(message.destination[1:]): message.message_id for message in simulator.accepted()}
    assert {number: reported[2] for number, reported in peers.campaign.recipients.items()} == truth
    assert simulator.times_accepted() == {1: RECIPIENTS}
    assert peers.ledger.captured == RECIPIENTS


async def test_what_is_rejected_for_now_again_and_again_fails_at_last(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    rejection = PartialRejection(form="item_error", destination_suffix="1", error_text="Handset busy, try later")
    simulator.script(Behaviour(partial=rejection), repeat=10)
    async with serving(configure(retryable_rejections=("try later",), queue_max_retries=2)) as dispatcher:
        await submit(dispatcher, phones(RECIPIENTS))
        await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": RECIPIENTS - 1, "FAILED": 1})
        assert await dispatcher.states() == {"ACCEPTED": 1, "REJECTED": 2}
    assert simulator.times_accepted() == {1: RECIPIENTS - 1}


@pytest.mark.parametrize("form", ["short", "null_id"])
async def test_a_refusal_that_does_not_say_whom_it_refuses_is_ambiguous(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers, form: str
) -> None:
    simulator.script(Behaviour(partial=PartialRejection(form=form, positions=(1,))))  # type: ignore[arg-type]
    batch = await send_one_batch(dispatcher, peers)
    assert batch.state == queue_pb2.BATCH_STATE_AMBIGUOUS


async def test_a_late_response_resolves_what_was_ambiguous(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    simulator.script(Behaviour(latency=Latency(constant_seconds=1.0)))
    async with serving(configure(mitto_soft_timeout_seconds=0.2, mitto_hard_timeout_seconds=20)) as dispatcher:
        await submit(dispatcher, phones(RECIPIENTS))
        await eventually(lambda: peers.campaign.outcomes == {"AMBIGUOUS": RECIPIENTS})
        await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": RECIPIENTS})
        assert await dispatcher.states() == {"ACCEPTED": 1}
        assert simulator.times_accepted() == {1: RECIPIENTS}
        await eventually(lambda: peers.ledger.captured == RECIPIENTS)


async def test_a_refused_connection_costs_nothing_however_long_it_lasts(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    async with serving(configure(queue_max_retries=0)) as dispatcher:
        head = header()
        await dispatcher.pause(head)
        await submit(dispatcher, phones(RECIPIENTS), head)
        # Only now, so that the first attempt falls into it however slow the machine is.
        simulator.refuse_connections(2.0, drop_connections=True)
        await dispatcher.resume(head)
        await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": RECIPIENTS})
        attempts = [
            attempt for batch in await dispatcher.batches() for attempt in await dispatcher.attempts(batch.batch_id)
        ]

    assert simulator.times_accepted() == {1: RECIPIENTS}
    failed = [attempt for attempt in attempts if outcome_of(attempt) != "ACCEPTED"]
    assert {(outcome_of(attempt), why(attempt)) for attempt in failed} == {("NOT_SENT", "CONNECT_FAILED")}
    assert 1 <= len(failed) <= 5, "the first one, and a probe after 0.1, 0.2, 0.4 and 0.8 seconds more at most"
    assert not any(attempt.HasField("armed_at") for attempt in failed)


async def test_out_of_retries_a_batch_is_dead_for_good_and_its_recipients_fail(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    async with serving(configure(queue_max_retries=2, queue_backoff=0.02)) as dispatcher:
        simulator.script("429", "429", "429")
        await submit(dispatcher, phones(RECIPIENTS))
        await eventually(lambda: peers.campaign.outcomes == {"FAILED": RECIPIENTS})
        (batch,) = await dispatcher.batches()
        assert (batch.state, why(batch)) == (queue_pb2.BATCH_STATE_DEAD, "ATTEMPTS_EXHAUSTED")
        assert batch.attempts == 3

        # Another chance is another enqueue of the campaign: the dead batch stays what it is.
        again = header(campaign_id=batch.campaign_id, enqueue_number=2)
        await submit(dispatcher, phones(RECIPIENTS), again)
        await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": RECIPIENTS})
        assert simulator.times_accepted() == {1: RECIPIENTS}
        assert await dispatcher.states() == {"DEAD": 1, "ACCEPTED": 1}
