"""From a submission to the provider's log and back to the peers, over real sockets."""

from __future__ import annotations

from collections.abc import Callable

from bulksms_dispatcher.settings import Settings
from devstack.eventually import eventually
from devstack.mitto.behaviours import Behaviour, Latency

from .dispatcher_support import Dispatcher, Peers, Provider, header, phones, serving, submit


async def test_a_submission_is_sent_once_and_everybody_is_reported(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    head = header(text="Hi {{first_name|friend}}, 20% off", variable_names=["first_name"])
    numbers = phones(95)
    names = ["" if n % 3 == 0 else f"Νίκος {n}" for n in range(95)]

    await submit(dispatcher, numbers, head, names)
    await eventually(lambda: len(peers.campaign.recipients) == 95 and peers.ledger.captured == 95)

    accepted = list(simulator.accepted())
    assert sorted(message.destination for message in accepted) == [f"+{number}" for number in numbers]
    assert {m.text for m in accepted} >= {"Hi friend, 20% off", "Hi Νίκος 1, 20% off"}
    truth = {int(message.destination[1:]): message.message_id for message in accepted}
    assert {phone: reported[2] for phone, reported in peers.campaign.recipients.items()} == truth
    assert peers.campaign.outcomes == {"ACCEPTED": 95}
    assert await dispatcher.states() == {"ACCEPTED": 10}
    assert {batch.attempts for batch in await dispatcher.batches()} == {1}


async def test_no_database_connection_is_held_while_the_provider_is_called(
    configure: Callable[..., Settings], simulator: Provider
) -> None:
    simulator.script(Behaviour(latency=Latency(constant_seconds=2)), repeat=8)
    async with serving(configure(sms_batch_size=1, worker_concurrency=8, database_pool_size=4)) as dispatcher:
        await submit(dispatcher, phones(8))

        async def all_are_on_the_wire() -> bool:
            return await dispatcher.states() == {"ARMED": 8}

        await eventually(all_are_on_the_wire)
