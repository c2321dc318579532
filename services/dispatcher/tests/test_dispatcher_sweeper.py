"""A single message whose caller died before it was queued fails, and its credit comes back."""

from __future__ import annotations

import uuid
from datetime import timedelta

from sqlalchemy import text

from bulksms.dispatcher.v1 import messages_pb2 as pb
from bulksms.ledger.v1.ledger_pb2_grpc import LedgerServiceStub
from bulksms_dispatcher.domain.messages import Message, fingerprint_of, message_id_of, reservation_id_of
from bulksms_dispatcher.peers.ledger import LedgerPeer
from bulksms_dispatcher.storage import messages
from bulksms_dispatcher.workers.sweeper import Sweeper
from servicekit.database import Database
from servicekit.grpc.client import open_channel

from .dispatcher_support import TENANT, Dispatcher, Peers, Provider, why

PHONE = 306_900_000_001


async def test_it_fails_its_reservation_is_closed_and_a_repeat_finds_it_failed(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers, database: Database
) -> None:
    request = pb.SendMessageRequest(
        request_id=str(uuid.uuid4()), tenant_id=TENANT, phone=f"+{PHONE}", text="Hi", sender="Astronote"
    )
    message_id = message_id_of(TENANT, uuid.UUID(request.request_id))
    async with database.begin() as connection:
        message = Message(message_id, TENANT, PHONE, "Astronote", 1)
        await messages.insert(connection, message, fingerprint_of(message, "Hi"))
        await connection.execute(text("UPDATE messages SET created_at = created_at - interval '1 minute'"))
    channel = open_channel(peers.address)
    ledger = LedgerPeer(LedgerServiceStub(channel))
    await Sweeper(database, ledger).sweep_once()
    assert peers.ledger.close_requests == {}  # not yet: its caller may only be slow
    await Sweeper(database, ledger, age=timedelta(seconds=30)).sweep_once()
    await channel.close()
    assert list(peers.ledger.close_requests) == [str(reservation_id_of(message_id))]
    repeated = (await dispatcher.messages.SendMessage(request)).message
    assert (repeated.status, why(repeated)) == (pb.MESSAGE_STATUS_FAILED, "INTERRUPTED")
    assert simulator.times_accepted() == {}


async def test_messages_that_are_queued_or_sent_are_left_alone(
    dispatcher: Dispatcher, peers: Peers, database: Database
) -> None:
    request = pb.SendMessageRequest(
        request_id=str(uuid.uuid4()), tenant_id=TENANT, phone=f"+{PHONE}", text="Hi", sender="Astronote"
    )
    sent = (await dispatcher.messages.SendMessage(request)).message
    async with database.begin() as connection:  # as if it still waited in the queue
        await connection.execute(text("UPDATE messages SET status = 1, created_at = created_at - interval '1 hour'"))
    channel = open_channel(peers.address)
    await Sweeper(database, LedgerPeer(LedgerServiceStub(channel))).sweep_once()
    await channel.close()
    found = await dispatcher.messages.GetMessage(pb.GetMessageRequest(tenant_id=TENANT, message_id=sent.message_id))
    assert found.message.status == pb.MESSAGE_STATUS_QUEUED
