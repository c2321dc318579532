"""SMS_BATCH_SIZE=auto: batches grow while the provider responds well, and shrink when they are too much for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pydantic import ValidationError

from bulksms_dispatcher.settings import Settings
from devstack.eventually import eventually
from devstack.mitto.behaviours import Behaviour
from devstack.mitto.rules import Match

from .dispatcher_support import Peers, Provider, header, phones, serving, submit

pytestmark = pytest.mark.slow

AUTO = {"sms_batch_size": "auto", "sms_batch_size_min": 10, "sms_batch_size_max": 100}


async def test_batches_grow_while_the_provider_responds_well(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    async with serving(configure(**AUTO)) as dispatcher:
        for round_number in range(12):
            numbers = phones(200, first=306_900_000_000 + 1000 * round_number)
            await submit(dispatcher, numbers)
            await eventually(lambda: len(peers.campaign.recipients) == 200 * (round_number + 1))  # noqa: B023
    sizes = [request.messages for request in simulator.requests()]
    assert sizes[0] == 20
    assert max(sizes) > 50
    assert max(sizes) <= 100
    assert simulator.times_accepted() == {1: 2400}


async def test_a_submission_is_stored_in_the_largest_batches_and_sent_in_growing_ones(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    async with serving(configure(**AUTO, worker_concurrency=1)) as dispatcher:
        head = header(text="Hello {{first_name}}", variable_names=["first_name"])
        await dispatcher.pause(head)
        numbers = phones(2000)
        await submit(dispatcher, numbers, head, values=[f"N{number % 1000}" for number in numbers])
        assert [batch.recipients for batch in await dispatcher.batches()] == [100] * 20
        await dispatcher.resume(head)
        await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 2000})
        assert sum(batch.recipients for batch in await dispatcher.batches()) == 2000
    sizes = [request.messages for request in simulator.requests()]
    assert sizes[0] == 20
    assert max(sizes) == 100, "it grew within one submission"
    assert simulator.times_accepted() == {1: 2000}
    assert all(message.text == f"Hello N{int(message.destination) % 1000}" for message in simulator.accepted())


@pytest.mark.parametrize("behaviour", [Behaviour(status=413), Behaviour(status=429)], ids=["413", "429"])
async def test_batches_that_were_cut_too_large_are_cut_again_and_every_recipient_is_sent_to_once(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers, behaviour: Behaviour
) -> None:
    simulator.script(behaviour, match=Match(path="bulk"))
    async with serving(configure(**AUTO)) as first, serving(configure(**AUTO)):
        # One batch alone: the responses to others would let the size grow again before it is tried anew.
        await submit(
            first,
            numbers := phones(20),
            header(text="Hello {{first_name}}", variable_names=["first_name"]),
            values=[f"N{number % 1000}" for number in numbers],
        )
        await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 20})
        assert set(await first.states()) == {"ACCEPTED"}
    assert simulator.times_accepted() == {1: 20}
    assert all(message.text == f"Hello N{int(message.destination) % 1000}" for message in simulator.accepted())
    assert [request.messages for request in simulator.requests()] == [20, 10, 10]


async def test_a_batch_is_halved_down_to_one_recipient_who_fails_if_that_is_too_large_too(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    simulator.script(Behaviour(status=413), match=Match(path="bulk"), repeat=100)
    async with serving(configure(**AUTO)) as dispatcher:
        await submit(dispatcher, phones(20))
        await eventually(lambda: peers.campaign.outcomes == {"FAILED": 20})
        assert await dispatcher.states() == {"REJECTED": 20}
    assert {reason for _, reason, _ in peers.campaign.recipients.values()} == {"BATCH_TOO_LARGE"}
    assert sorted((request.messages for request in simulator.requests()), reverse=True)[:7] == [20, 10, 10, 5, 5, 5, 5]


def test_bounds_that_contradict_each_other_are_refused(configure: Callable[..., Settings]) -> None:
    with pytest.raises(ValidationError, match="SMS_BATCH_SIZE_MIN"):
        configure(sms_batch_size="auto", sms_batch_size_min=200, sms_batch_size_max=100)
