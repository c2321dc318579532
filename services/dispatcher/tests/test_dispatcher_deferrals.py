"""A number whose last message may or may not have been sent is not written to again until that is known."""

from __future__ import annotations

import uuid
from collections import Counter

from bulksms.dispatcher.v1 import dispatch_pb2, queue_pb2
from bulksms.dispatcher.v1 import messages_pb2 as pb
from devstack.eventually import eventually

from .dispatcher_support import TENANT, Dispatcher, Peers, Provider, header, phones, submit, why


def outcomes_of(peers: Peers, head: dispatch_pb2.SubmissionHeader) -> Counter[str]:
    """Of one campaign only."""
    mine = Peers()
    mine.campaign.results = [
        reported for reported in peers.campaign.results if reported.campaign_id == head.campaign_id
    ]
    return mine.campaign.outcomes


async def unresolved(dispatcher: Dispatcher, simulator: Provider, peers: Peers, count: int) -> str:
    """A batch of which nobody knows whether it was sent; it was."""
    simulator.script("accept-then-reset")
    head = await submit(dispatcher, phones(count))
    await eventually(lambda: outcomes_of(peers, head) == {"AMBIGUOUS": count})
    (batch,) = await dispatcher.batches(state=queue_pb2.BATCH_STATE_AMBIGUOUS)
    return batch.batch_id


async def confirm(dispatcher: Dispatcher, batch_id: str) -> None:
    """The operator's."""
    await dispatcher.queue.ResolveBatch(
        queue_pb2.ResolveBatchRequest(
            request_id=str(uuid.uuid4()),
            batch_id=batch_id,
            resolution=queue_pb2.RESOLUTION_ACCEPTED,
            evidence="asked Mitto",
        )
    )


async def test_unresolved_numbers_wait_in_a_batch_of_their_own_and_the_others_go_out(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    lost = await unresolved(dispatcher, simulator, peers, 4)
    head = header(text="Again {{name}}", variable_names=["name"])
    await submit(dispatcher, phones(10), head, [f"n{number}" for number in range(10)])
    await eventually(lambda: outcomes_of(peers, head) == {"ACCEPTED": 6})
    (deferred,) = await dispatcher.batches(state=queue_pb2.BATCH_STATE_READY)
    assert (deferred.recipients, why(deferred), deferred.attempts) == (4, "EARLIER_MESSAGE_UNRESOLVED", 0)
    assert simulator.times_accepted() == {1: 10}
    await confirm(dispatcher, lost)
    await eventually(lambda: outcomes_of(peers, head) == {"ACCEPTED": 10})
    again = {m.destination: m.text for m in simulator.accepted() if m.text.startswith("Again")}
    assert again == {f"+{phone}": f"Again n{number}" for number, phone in enumerate(phones(10))}
    assert await dispatcher.states() == {"ACCEPTED": 3}
    await eventually(lambda: peers.ledger.captured == 14)


async def test_a_batch_of_nobody_else_waits_as_a_whole_and_costs_no_retry(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    lost = await unresolved(dispatcher, simulator, peers, 10)
    head = await submit(dispatcher, phones(5))

    async def held_twice() -> bool:
        return any(batch.epoch >= 2 for batch in await dispatcher.batches(campaign_id=head.campaign_id))

    await eventually(held_twice)
    (deferred,) = await dispatcher.batches(campaign_id=head.campaign_id)
    assert (why(deferred), deferred.attempts) == ("EARLIER_MESSAGE_UNRESOLVED", 0)
    for message in simulator.accepted():  # evidence frees the numbers one by one
        await dispatcher.messages.RecordDeliveryEvidence(
            pb.RecordDeliveryEvidenceRequest(reports=[pb.EvidenceReport(provider_message_id=message.message_id)])
        )
    await eventually(lambda: outcomes_of(peers, head) == {"ACCEPTED": 5})
    assert simulator.times_accepted() == {2: 5, 1: 5}

    async def resolved() -> bool:
        return lost not in {batch.batch_id for batch in await dispatcher.batches(state=queue_pb2.BATCH_STATE_AMBIGUOUS)}

    await eventually(resolved)


async def test_a_single_message_to_an_unresolved_number_is_queued(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    lost = await unresolved(dispatcher, simulator, peers, 1)
    request = pb.SendMessageRequest(
        request_id=str(uuid.uuid4()), tenant_id=TENANT, phone=f"+{phones(1)[0]}", text="Now", sender="Astronote"
    )
    queued = (await dispatcher.messages.SendMessage(request, timeout=2)).message
    assert queued.status == pb.MESSAGE_STATUS_QUEUED
    await confirm(dispatcher, lost)
    sent = (await dispatcher.messages.SendMessage(request)).message
    assert sent.status == pb.MESSAGE_STATUS_SENT
    assert simulator.times_accepted() == {2: 1}
