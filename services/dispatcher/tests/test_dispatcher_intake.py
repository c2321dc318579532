"""Submissions: durable batch by batch, resumable, and clear about what is wrong with them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from bulksms.dispatcher.v1 import dispatch_pb2 as pb
from bulksms_dispatcher.settings import Settings
from devstack.eventually import eventually

from .dispatcher_support import (
    TENANT,
    Dispatcher,
    Peers,
    Provider,
    chunks,
    header,
    phones,
    reason_of,
    serving,
    stream,
    submit,
)


async def test_a_broken_stream_goes_on_where_it_was_stored(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    head, numbers = header(), phones(37)
    with pytest.raises(grpc.aio.AioRpcError) as broken:
        await dispatcher.dispatch.Submit(stream(head, chunks(numbers[:25], size=7), None))
    assert reason_of(broken.value) == "INVALID_ARGUMENT"

    stored = await dispatcher.dispatch.GetSubmission(naming(head))
    assert (stored.next_index, stored.last_phone, stored.batches, stored.complete) == (20, numbers[19], 2, False)

    rest = chunks(numbers[20:], first_index=20, size=7)
    response = await dispatcher.dispatch.Submit(stream(head, rest, 37))
    assert (response.recipients, response.batches) == (37, 4)
    await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 37})
    assert simulator.times_accepted() == {1: 37}


async def test_a_submission_may_be_repeated_from_the_start_any_number_of_times(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    head, numbers = header(), phones(25)
    responses = [await dispatcher.dispatch.Submit(stream(head, chunks(numbers, size=size), 25)) for size in (25, 4, 10)]
    assert {(response.recipients, response.batches) for response in responses} == {(25, 3)}
    await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 25})
    assert simulator.times_accepted() == {1: 25}


async def test_callers_that_stream_the_same_submission_at_once_do_not_double_it(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    head, numbers = header(), phones(103)
    streams = (stream(head, chunks(numbers, size=size), 103) for size in (5, 7, 50, 103))
    responses = await asyncio.gather(*(dispatcher.dispatch.Submit(requests) for requests in streams))
    assert {(response.recipients, response.batches) for response in responses} == {(103, 11)}
    await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 103})
    assert simulator.times_accepted() == {1: 103}


async def test_the_same_id_with_another_header_or_other_recipients_is_a_conflict(dispatcher: Dispatcher) -> None:
    head = await submit(dispatcher, phones(10))
    for changes in ({"text": "Other"}, {"snapshot_digest": b"other people, or in other places"}):
        other = pb.SubmissionHeader()
        other.CopyFrom(head)
        other.MergeFrom(pb.SubmissionHeader(**changes))
        with pytest.raises(grpc.aio.AioRpcError) as conflict:
            await dispatcher.dispatch.Submit(stream(other, chunks(phones(10)), 10))
        assert reason_of(conflict.value) == "SUBMISSION_CONFLICT"
    for requests in (
        stream(head, chunks(phones(20)), 20),
        stream(head, chunks(phones(10)), 11),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as conflict:
            await dispatcher.dispatch.Submit(requests)
        assert reason_of(conflict.value) == "SUBMISSION_CONFLICT"
        assert conflict.value.code() is grpc.StatusCode.ALREADY_EXISTS


async def test_recipients_below_those_that_are_stored_are_a_conflict(dispatcher: Dispatcher) -> None:
    head, numbers = header(), phones(20)
    with pytest.raises(grpc.aio.AioRpcError):
        await dispatcher.dispatch.Submit(stream(head, chunks(numbers[:10]), None))
    lower = chunks(phones(10, first=306_800_000_000), first_index=10)
    with pytest.raises(grpc.aio.AioRpcError) as conflict:
        await dispatcher.dispatch.Submit(stream(head, lower, 20))
    assert reason_of(conflict.value) == "SUBMISSION_CONFLICT"


async def test_a_gap_names_where_to_go_on(dispatcher: Dispatcher) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as gap:
        await dispatcher.dispatch.Submit(stream(header(), chunks(phones(5), first_index=3), 8))
    assert reason_of(gap.value) == "SUBMISSION_GAP"
    assert gap.value.code() is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize(
    "changes",
    [
        {"submission_id": "no uuid"},
        {"campaign_id": ""},
        {"campaign_id": str(uuid.UUID(int=0))},
        {"tenant_id": "Acme!"},
        {"enqueue_number": 0},
        {"reservation_id": "x"},
        {"text": ""},
        {"text": "Hi {{name}"},
        {"text": "Hi {{name}}"},
        {"sender": "Ω"},
        {"variable_names": ["a", "a"]},
        {"snapshot_digest": b""},
        {"snapshot_digest": b"x" * 65},
    ],
)
async def test_a_wrong_header_is_refused_and_nothing_is_stored(dispatcher: Dispatcher, changes: dict[str, Any]) -> None:
    head = header(**changes)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await dispatcher.dispatch.Submit(stream(head, [], 0))
    assert reason_of(refused.value) == "INVALID_ARGUMENT"
    assert await dispatcher.batches() == []


@pytest.mark.parametrize(
    "chunk",
    [
        pb.RecipientChunk(phones=[306900000001, 306900000001]),
        pb.RecipientChunk(phones=[306900000002, 306900000001]),
        pb.RecipientChunk(phones=[12]),
        pb.RecipientChunk(phones=[10**15]),
        pb.RecipientChunk(phones=[]),
        pb.RecipientChunk(phones=range(10**9, 10**9 + 10_001)),
        pb.RecipientChunk(phones=[306900000001], values=["one too many"]),
        pb.RecipientChunk(phones=[306900000001], first_index=-1),
    ],
)
async def test_a_wrong_chunk_is_refused(dispatcher: Dispatcher, chunk: pb.RecipientChunk) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await dispatcher.dispatch.Submit(stream(header(), [pb.SubmitRequest(chunk=chunk)], 1))
    assert reason_of(refused.value) == "INVALID_ARGUMENT"


async def test_a_stream_without_a_header_is_refused(dispatcher: Dispatcher) -> None:
    async def nothing() -> AsyncIterator[pb.SubmitRequest]:
        return
        yield

    for requests in (nothing(), aiter_of(chunks(phones(1)))):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await dispatcher.dispatch.Submit(requests)
        assert reason_of(refused.value) == "INVALID_ARGUMENT"


async def aiter_of(requests: list[pb.SubmitRequest]) -> AsyncIterator[pb.SubmitRequest]:
    for request in requests:
        yield request


async def test_an_unknown_submission_is_not_found(dispatcher: Dispatcher) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        await dispatcher.dispatch.GetSubmission(
            pb.GetSubmissionRequest(tenant_id=TENANT, submission_id=str(uuid.uuid4()))
        )
    assert reason_of(unknown.value) == "SUBMISSION_NOT_FOUND"


async def test_an_empty_submission_is_complete(dispatcher: Dispatcher) -> None:
    response = await dispatcher.dispatch.Submit(stream(header(), [], 0))
    assert (response.recipients, response.batches) == (0, 0)


async def test_beyond_the_backlog_limit_the_caller_is_told_to_come_back(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    async with serving(configure(backlog_limit=20)) as dispatcher:
        paused = header()
        await dispatcher.pause(paused)
        with pytest.raises(grpc.aio.AioRpcError) as full:
            await submit(dispatcher, phones(50), paused)
        assert reason_of(full.value) == "BACKLOG_FULL"
        assert full.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        stored = await dispatcher.dispatch.GetSubmission(naming(paused))
        assert stored.next_index == 20


def naming(head: pb.SubmissionHeader) -> pb.GetSubmissionRequest:
    """What asks how far a submission is stored."""
    return pb.GetSubmissionRequest(tenant_id=head.tenant_id, submission_id=head.submission_id)
