"""USE_BULK_SMS=false: the same protocol, a message a request."""

from __future__ import annotations

import uuid
from collections.abc import Callable

from bulksms.dispatcher.v1 import dispatch_pb2
from bulksms_dispatcher.settings import Settings
from devstack.eventually import eventually

from .dispatcher_support import TENANT, Peers, Provider, header, phones, serving, submit


async def test_every_recipient_gets_a_request_of_his_own_and_every_fault_stays_his_own(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    simulator.script("polite", "429", "400", "accept-then-reset", "flat-id", "flat-message-id")
    async with serving(configure(use_bulk_sms=False, sms_batch_size=100)) as dispatcher:
        numbers = phones(30)
        opted_out = dispatch_pb2.RecordOptOutsRequest(
            request_id=str(uuid.uuid4()), tenant_id=TENANT, phones=numbers[:1]
        )
        await dispatcher.dispatch.RecordOptOuts(opted_out)
        await submit(
            dispatcher,
            numbers,
            header(text="Hello {{first_name}}", variable_names=["first_name"]),
            values=[f"N{number % 100}" for number in numbers],
        )
        await eventually(lambda: len(peers.campaign.recipients) == 30)
    assert peers.campaign.outcomes == {"ACCEPTED": 27, "FAILED": 1, "AMBIGUOUS": 1, "OPTED_OUT": 1}
    assert simulator.times_accepted() == {1: 28}
    assert {request.path.rpartition("/")[2] for request in simulator.requests()} == {"send"}
    assert all(message.text == f"Hello N{int(message.destination) % 100}" for message in simulator.accepted())
    ids = {message.destination: message.message_id for message in simulator.accepted()}
    for phone, (outcome, _, message_id) in peers.campaign.recipients.items():
        if outcome == "ACCEPTED":
            assert message_id == ids[f"+{phone}"]
