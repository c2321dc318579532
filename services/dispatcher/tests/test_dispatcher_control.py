"""Pause, resume, cancel, opt-outs, priorities and the operators' view."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from bulksms.dispatcher.v1 import dispatch_pb2 as pb
from bulksms.dispatcher.v1 import queue_pb2
from bulksms.ledger.v1 import ledger_pb2
from bulksms.types.v1 import types_pb2
from bulksms_dispatcher.settings import Settings
from devstack.eventually import eventually
from servicekit import errors

from .dispatcher_support import (
    TENANT,
    Dispatcher,
    Peers,
    Provider,
    chunks,
    header,
    naming,
    phones,
    reason_of,
    serving,
    stream,
    submit,
)


async def test_a_paused_campaign_waits_and_goes_on_when_resumed(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    head = header()
    await dispatcher.pause(head)
    await submit(dispatcher, phones(30), head)
    other = await submit(dispatcher, phones(10, first=447_700_900_000))
    await eventually(lambda: len(peers.campaign.recipients) == 10)  # the others are not held up
    assert {reported.campaign_id for reported in peers.campaign.results} == {other.campaign_id}
    assert (await dispatcher.states())["READY"] == 3

    resumed = await dispatcher.resume(head)
    assert resumed.ready == 3
    await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 40})
    assert simulator.times_accepted() == {1: 40}


async def test_a_cancelled_campaign_tells_its_recipients_and_takes_no_more(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    head = header()
    await dispatcher.pause(head)
    await submit(dispatcher, phones(25), head)

    request = pb.CancelCampaignRequest(**naming(head))
    cancelled = await dispatcher.dispatch.CancelCampaign(request)
    assert (cancelled.cancelled_recipients, cancelled.in_flight, cancelled.submitted_recipients) == (25, 0, 25)
    again = await dispatcher.dispatch.CancelCampaign(request)
    assert (again.cancelled_recipients, again.submitted_recipients) == (0, 25)

    await eventually(lambda: peers.campaign.outcomes == {"CANCELLED": 25})
    assert await dispatcher.states() == {"CANCELLED": 3}
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await dispatcher.dispatch.Submit(stream(head, chunks(phones(25)), 25))
    assert reason_of(refused.value) == "CAMPAIGN_CANCELLED"
    assert simulator.times_accepted() == {}


async def test_a_batch_that_comes_back_under_a_cancelled_campaign_is_cancelled(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    simulator.script("429-retry-after")
    head = await submit(dispatcher, phones(5))
    await eventually(lambda: simulator.stats().requests)
    await dispatcher.dispatch.CancelCampaign(pb.CancelCampaignRequest(**naming(head)))
    await eventually(lambda: peers.campaign.outcomes == {"CANCELLED": 5})
    assert await dispatcher.states() == {"CANCELLED": 1}
    assert simulator.times_accepted() == {}


async def test_who_opts_out_before_sending_is_not_written_to_and_is_reported_as_opted_out(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    head, numbers = header(), phones(30)
    await dispatcher.pause(head)
    await submit(dispatcher, numbers, head)
    out = [numbers[3], *numbers[10:20], 447_700_900_123]
    suppress = pb.RecordOptOutsRequest(request_id=str(uuid.uuid4()), tenant_id=TENANT, phones=out)
    assert (await dispatcher.dispatch.RecordOptOuts(suppress)).added == 12
    assert (await dispatcher.dispatch.RecordOptOuts(suppress)).added == 0
    back = pb.RemoveOptOutsRequest(request_id=str(uuid.uuid4()), tenant_id=TENANT, phones=[447_700_900_123])
    assert (await dispatcher.dispatch.RemoveOptOuts(back)).removed == 1

    await dispatcher.resume(head)
    await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 19, "OPTED_OUT": 11})
    sent = {int(message.destination[1:]) for message in simulator.accepted()}
    assert sent == set(numbers) - set(out)
    await eventually(lambda: peers.ledger.captured == 19)
    assert await dispatcher.states() == {"ACCEPTED": 2, "CANCELLED": 1}  # one batch had nobody left


async def test_an_ambiguous_batch_reports_who_opted_out_as_such(
    dispatcher: Dispatcher, simulator: Provider, peers: Peers
) -> None:
    numbers = phones(4)
    await dispatcher.dispatch.RecordOptOuts(
        pb.RecordOptOutsRequest(request_id=str(uuid.uuid4()), tenant_id=TENANT, phones=numbers[:1])
    )
    simulator.script("accept-then-reset")
    await submit(dispatcher, numbers)
    await eventually(lambda: peers.campaign.outcomes == {"AMBIGUOUS": 3, "OPTED_OUT": 1})


async def test_the_stats_show_depth_workers_and_pacing(dispatcher: Dispatcher, peers: Peers) -> None:
    head = header(priority=types_pb2.PRIORITY_LOW)
    await dispatcher.pause(head)
    await submit(dispatcher, phones(15), head)
    await submit(dispatcher, phones(10), header(tenant_id="other"))
    await eventually(lambda: len(peers.campaign.recipients) == 10)

    async def reported() -> Any:
        stats = await dispatcher.queue.GetQueueStats(queue_pb2.GetQueueStatsRequest())
        return stats if stats.outbox_pending == 0 and stats.workers_alive else None

    stats = await eventually(reported)
    (lane,) = stats.lanes
    assert (lane.state, lane.priority, lane.batches, lane.recipients) == (
        queue_pb2.BATCH_STATE_READY,
        types_pb2.PRIORITY_LOW,
        2,
        15,
    )
    assert not stats.HasField("oldest_ready_age")  # paused ones may not be claimed
    assert stats.workers_alive == 1
    assert stats.pacing_available
    assert stats.accepted_per_second == pytest.approx(10 / 60)
    nobody = await dispatcher.queue.GetQueueStats(queue_pb2.GetQueueStatsRequest(tenant_id="nobody"))
    assert list(nobody.lanes) == []


async def test_batches_are_listed_page_by_page_newest_first(dispatcher: Dispatcher, peers: Peers) -> None:
    head = await submit(dispatcher, phones(50))
    await submit(dispatcher, phones(10, first=447_700_900_000), header(tenant_id="other"))
    await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 60})

    numbers, token = [], ""
    for _ in range(3):
        page = await dispatcher.queue.ListBatches(
            queue_pb2.ListBatchesRequest(campaign_id=head.campaign_id, page_size=2, page_token=token)
        )
        numbers += [batch.number for batch in page.batches]
        token = page.next_page_token
    assert (numbers, token) == ([4, 3, 2, 1, 0], "")
    assert len(await dispatcher.batches(tenant_id="other", state=queue_pb2.BATCH_STATE_ACCEPTED)) == 1
    with pytest.raises(grpc.aio.AioRpcError) as wrong:
        await dispatcher.batches(page_token="x")
    assert reason_of(wrong.value) == "INVALID_ARGUMENT"


async def test_a_limit_is_changed_at_runtime(dispatcher: Dispatcher) -> None:
    limit = queue_pb2.RateLimit(
        scope=queue_pb2.RATE_LIMIT_SCOPE_TENANT,
        key=TENANT,
        max_requests=7,
        max_messages=100,
        window=Duration(nanos=500_000_000),
    )
    changed = await set_limit(dispatcher, limit)
    assert changed.etag
    limit.etag = changed.etag
    assert changed == limit
    assert limit in await limits_of(dispatcher)


async def test_what_a_limit_does_not_say_is_not_limited(dispatcher: Dispatcher) -> None:
    limit = queue_pb2.RateLimit(scope=queue_pb2.RATE_LIMIT_SCOPE_TENANT, key=TENANT, window=Duration(seconds=2))
    await set_limit(dispatcher, limit)
    (shown,) = [shown for shown in await limits_of(dispatcher) if shown.key == TENANT]
    assert not shown.HasField("max_requests")
    assert not shown.HasField("max_messages")
    assert shown.window == limit.window


async def test_a_limit_that_was_changed_since_it_was_read_is_not_overwritten(dispatcher: Dispatcher) -> None:
    limit = queue_pb2.RateLimit(
        scope=queue_pb2.RATE_LIMIT_SCOPE_GLOBAL, max_requests=7, window=Duration(nanos=500_000_000)
    )
    (read,) = [shown for shown in await limits_of(dispatcher) if shown.scope == limit.scope]
    first = await set_limit(dispatcher, limit, etag=read.etag)
    assert await set_limit(dispatcher, limit, etag=read.etag) == first, "it is as asked for already"
    limit.max_requests = 8
    for stale in (read.etag, "another"):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await set_limit(dispatcher, limit, etag=stale)
        assert (reason_of(refused.value), refused.value.code()) == ("ETAG_MISMATCH", grpc.StatusCode.ABORTED)
    second = await set_limit(dispatcher, limit, etag=first.etag)
    assert second.max_requests == 8
    assert second.etag != first.etag
    limit.max_requests = 9
    assert (await set_limit(dispatcher, limit)).max_requests == 9  # who names none replaces what is there
    limit.key, limit.scope = "nobody's", queue_pb2.RATE_LIMIT_SCOPE_TENANT
    with pytest.raises(grpc.aio.AioRpcError):
        await set_limit(dispatcher, limit, etag=second.etag)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("limit.window", {"window": Duration()}),
        ("limit.window", {"window": Duration(seconds=3601)}),
        ("limit.window", {"window": Duration(nanos=1_500_000)}),
        ("limit.max_requests", {"max_requests": -1}),
        ("limit.max_messages", {"max_messages": 10_000_001}),
        ("limit.scope", {"scope": 0}),
    ],
)
async def test_a_limit_that_means_nothing_is_refused(dispatcher: Dispatcher, field: str, wrong: dict[str, Any]) -> None:
    values: dict[str, Any] = {"scope": queue_pb2.RATE_LIMIT_SCOPE_GLOBAL, "window": Duration(seconds=1)}
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await set_limit(dispatcher, queue_pb2.RateLimit(**values | wrong))
    assert reason_of(refused.value) == "INVALID_ARGUMENT"
    assert field in str(refused.value.trailing_metadata())


async def set_limit(dispatcher: Dispatcher, limit: queue_pb2.RateLimit, etag: str = "") -> queue_pb2.RateLimit:
    request = queue_pb2.SetRateLimitRequest(request_id=str(uuid.uuid4()), limit=limit, etag=etag)
    return (await dispatcher.queue.SetRateLimit(request)).limit


async def limits_of(dispatcher: Dispatcher) -> list[queue_pb2.RateLimit]:
    return list((await dispatcher.queue.GetRateLimits(queue_pb2.GetRateLimitsRequest())).limits)


async def test_results_wait_for_peers_that_are_away(dispatcher: Dispatcher, simulator: Provider, peers: Peers) -> None:
    peers.campaign.refuse_with = errors.unavailable("AWAY", "Away: come back.")
    await submit(dispatcher, phones(20))
    await eventually(lambda: peers.ledger.captured == 20)
    assert peers.campaign.recipients == {}
    peers.campaign.refuse_with = None
    await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 20})
    assert simulator.times_accepted() == {1: 20}


async def test_a_result_that_is_refused_for_good_is_kept_and_visible(dispatcher: Dispatcher, peers: Peers) -> None:
    peers.ledger.capture_refusal = ledger_pb2.REFUSAL_REASON_RESERVATION_EXCEEDED
    await submit(dispatcher, phones(5))
    await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 5})

    async def pending() -> bool:
        stats = await dispatcher.queue.GetQueueStats(queue_pb2.GetQueueStatsRequest())
        return stats.outbox_pending == 1

    await eventually(pending)


async def test_urgent_batches_overtake_and_tenants_take_turns(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    settings = configure(worker_concurrency=1, sms_batch_size=1, rate_limit_traffic_account_max=20)
    async with serving(settings) as dispatcher:
        heads = [header(tenant_id=name) for name in ("big", "small")]
        urgent = header(tenant_id="big", priority=types_pb2.PRIORITY_URGENT)
        for head in (*heads, urgent):
            await dispatcher.pause(head)
        await submit(dispatcher, phones(30), heads[0])
        await submit(dispatcher, phones(3, first=447_700_900_000), heads[1])
        await submit(dispatcher, phones(2, first=491_510_000_000), urgent)
        for head in (urgent, *heads):
            await dispatcher.resume(head)
        await eventually(lambda: len(peers.campaign.recipients) == 35)

    order = [message.destination[1:3] for message in simulator.accepted()]
    assert order.index("49") < 3
    # Three of the small tenant's go out among the first handful, though the big one came first with thirty.
    assert max(index for index, country in enumerate(order) if country == "44") <= 10
