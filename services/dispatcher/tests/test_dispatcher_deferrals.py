"""Who may or may not have been sent a text is not sent the same one again until that is known; all else goes out."""

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


def ids_known(peers: Peers, tenant: str) -> set[str]:
    """The provider's ids that campaign has heard of for one tenant."""
    results = [reported for reported in peers.campaign.results if reported.tenant_id == tenant]
    return {message_id for result in results for group in result.groups for message_id in group.provider_message_ids}


async def unresolved(dispatcher: Dispatcher, simulator: Provider, peers: Peers, count: int) -> str:
    """A batch of which nobody knows whether it was sent; it was."""
    simulator.script("accept-then-reset")
    head = await submit(dispatcher, phones(count))
    await eventually(lambda: outcomes_of(peers, head) == {"AMBIGUOUS": count})
    (batch,) = await dispatcher.batches(state=queue_pb2.BATCH_STATE_AMBIGUOUS)
    return batch.batch_id


async def _is_deferred(dispatcher: Dispatcher, head: dispatch_pb2.SubmissionHeader, count: int) -> bool:
    """Whether so many recipients wait for what became of an earlier message; no retry was spent on them."""
    batches = await dispatcher.batches(state=queue_pb2.BATCH_STATE_READY, campaign_id=head.campaign_id)
    deferred = [batch for batch in batches if why(batch) == "EARLIER_MESSAGE_UNRESOLVED"]
    assert all(batch.attempts == 0 for batch in deferred)
    return sum(batch.recipients for batch in deferred) == count


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


async def test_those_who_may_have_been_sent_the_same_text_wait_in_a_batch_of_their_own_and_the_others_go_out(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    lost = await unresolved(dispatcher, simulator, peers, 4)
    head = header(text="{{word}}", variable_names=["word"])
    words = ["Hello", "Goodbye", *["Hello"] * 8]
    await submit(dispatcher, phones(10), head, words)
    await eventually(lambda: outcomes_of(peers, head) == {"ACCEPTED": 7})
    await eventually(lambda: _is_deferred(dispatcher, head, 3), what="three of them to be deferred")
    assert simulator.times_accepted() == {1: 9, 2: 1}, "another text to the second of them is another message"
    await confirm(dispatcher, lost)
    await eventually(lambda: outcomes_of(peers, head) == {"ACCEPTED": 10})
    sent = list(simulator.accepted())[4:]
    assert {m.destination: m.text for m in sent} == {
        f"+{phone}": word for phone, word in zip(phones(10), words, strict=True)
    }
    assert set(await dispatcher.states()) == {"ACCEPTED"}
    await eventually(lambda: peers.ledger.captured == 14)


async def test_another_tenants_campaign_to_unresolved_numbers_goes_out_at_once_though_its_text_is_the_same(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    await unresolved(dispatcher, simulator, peers, 4)
    head = await submit(dispatcher, phones(4), header(tenant_id="other"))
    await eventually(lambda: outcomes_of(peers, head) == {"ACCEPTED": 4})
    first, second = list(simulator.accepted())[:4], list(simulator.accepted())[4:]
    await dispatcher.messages.RecordDeliveryEvidence(
        pb.RecordDeliveryEvidenceRequest(
            reports=[pb.EvidenceReport(provider_message_id=message.message_id) for message in (*first, *second)]
        )
    )
    perhaps = {message.message_id for message in first}
    await eventually(lambda: ids_known(peers, TENANT) == perhaps, what="each message to be its own tenant's")
    assert ids_known(peers, "other") == {message.message_id for message in second}


async def test_a_batch_of_nobody_else_waits_as_a_whole_and_costs_no_retry(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    lost = await unresolved(dispatcher, simulator, peers, 10)
    head = await submit(dispatcher, phones(5))

    async def held_twice() -> bool:
        return any(batch.epoch >= 2 for batch in await dispatcher.batches(campaign_id=head.campaign_id))

    await eventually(held_twice)
    await eventually(lambda: _is_deferred(dispatcher, head, 5), what="all of them to be deferred")
    for message in simulator.accepted():  # evidence frees the numbers one by one
        await dispatcher.messages.RecordDeliveryEvidence(
            pb.RecordDeliveryEvidenceRequest(reports=[pb.EvidenceReport(provider_message_id=message.message_id)])
        )
    await eventually(lambda: outcomes_of(peers, head) == {"ACCEPTED": 5})
    assert simulator.times_accepted() == {2: 5, 1: 5}

    async def resolved() -> bool:
        return lost not in {batch.batch_id for batch in await dispatcher.batches(state=queue_pb2.BATCH_STATE_AMBIGUOUS)}

    await eventually(resolved)


async def test_a_single_message_to_an_unresolved_number_goes_out_at_once_though_its_text_is_the_same(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    await unresolved(dispatcher, simulator, peers, 1)
    request = pb.SendMessageRequest(
        request_id=str(uuid.uuid4()), tenant_id=TENANT, phone=f"+{phones(1)[0]}", text="Hello", sender="Astronote"
    )
    sent = (await dispatcher.messages.SendMessage(request)).message
    assert sent.status == pb.MESSAGE_STATUS_SENT
    assert simulator.times_accepted() == {2: 1}
