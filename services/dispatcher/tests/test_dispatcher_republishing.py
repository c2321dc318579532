"""A campaign service whose database was set back hears again what it had acknowledged since."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import text

from bulksms.dispatcher.v1 import queue_pb2 as pb
from bulksms_dispatcher.storage import retention
from devstack.eventually import eventually
from servicekit.database import Database

from .dispatcher_support import Dispatcher, Peers, Provider, phones, reason_of, submit


def asking(since: datetime, request_id: str = "") -> pb.RepublishResultsRequest:
    stamp = Timestamp()
    stamp.FromDatetime(since)
    return pb.RepublishResultsRequest(
        request_id=request_id or str(uuid.uuid4()), since=stamp, reason="restored from the backup of noon"
    )


async def sent(dispatcher: Dispatcher, peers: Peers) -> datetime:
    """A campaign of three batches, whose results are acknowledged; a moment before that."""
    began = datetime.now(UTC) - timedelta(seconds=1)
    await submit(dispatcher, phones(25))
    await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 25})

    async def everything_is_delivered() -> bool:
        return (await dispatcher.queue.GetQueueStats(pb.GetQueueStatsRequest())).outbox_pending == 0

    await eventually(everything_is_delivered)
    return began


def reported(peers: Peers) -> list[bytes]:
    """All that the campaign service was called with, in no order."""
    return sorted(request.SerializeToString(deterministic=True) for request in peers.campaign.results)


async def test_results_are_reported_again_as_they_were_once_for_each_request(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    began = await sent(dispatcher, peers)
    before = reported(peers)
    peers.campaign.results.clear()
    request = asking(began)
    again = await dispatcher.queue.RepublishResults(request)
    assert (again.results, again.replayed) == (3, False)
    await eventually(lambda: reported(peers) == before)
    assert simulator.times_accepted() == {1: 25}
    repeated = await dispatcher.queue.RepublishResults(request)
    assert (repeated.results, repeated.replayed) == (0, True)
    with pytest.raises(grpc.aio.AioRpcError) as reused:
        await dispatcher.queue.RepublishResults(asking(began - timedelta(days=1), request.request_id))
    assert reason_of(reused.value) == "REQUEST_ID_REUSED"


async def test_what_was_acknowledged_before_that_moment_is_not_reported_again(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    await sent(dispatcher, peers)
    later = await dispatcher.queue.RepublishResults(asking(datetime.now(UTC) + timedelta(seconds=5)))
    assert later.results == 0


async def test_delivered_results_end_with_their_batches(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers, database: Database
) -> None:
    await sent(dispatcher, peers)
    async with database.begin() as connection:
        assert await retention.delete_batches(connection, timedelta(0), 100) == 3
        left = await connection.execute(text("SELECT count(*) FROM delivered_results"))
        assert left.scalar_one() == 0


async def test_a_moment_and_a_reason_must_be_given(dispatcher: Dispatcher) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await dispatcher.queue.RepublishResults(pb.RepublishResultsRequest(request_id=str(uuid.uuid4())))
    assert reason_of(refused.value) == "INVALID_ARGUMENT"
