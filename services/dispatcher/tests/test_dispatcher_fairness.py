"""Fairness and priority: nobody waits for another tenant's hundred thousands, and urgent goes before the rest."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from datetime import timedelta

import pytest

from bulksms.types.v1 import types_pb2
from bulksms_dispatcher.settings import Settings
from devstack.eventually import eventually

from .dispatcher_support import TENANT, Peers, Provider, header, phones, serving, submit

pytestmark = pytest.mark.slow

LANES = {"306": types_pb2.PRIORITY_LOW, "447": types_pb2.PRIORITY_NORMAL, "491": types_pb2.PRIORITY_URGENT}


@pytest.mark.parametrize("priority", [types_pb2.PRIORITY_NORMAL, types_pb2.PRIORITY_URGENT])
async def test_ten_go_out_while_another_tenants_200_000_are_queued(
    configure: Callable[..., Settings],
    simulator: Provider,
    peers: Peers,
    priority: types_pb2.Priority.ValueType,
) -> None:
    # 200 batches at 10 requests a second: the large one alone takes 20 s.
    settings = configure(
        sms_batch_size=1000, rate_limit_traffic_account_max=5, rate_limit_traffic_account_window_ms=500
    )
    async with serving(settings) as first, serving(settings) as second:
        large = header(tenant_id="large")
        await first.pause(large)
        await submit(first, phones(200_000), large)
        await first.resume(large)
        await eventually(simulator.times_accepted)
        await submit(second, phones(10, first=447_700_900_000), header(tenant_id="small", priority=priority))
        submitted_at = time.time()
        ten = {447_700_900_000 + number for number in range(10)}
        await eventually(lambda: ten <= set(peers.campaign.recipients))
    small = [m.received_at for m in simulator.accepted() if m.destination.startswith("+4477")]
    large_requests = {m.received_at for m in simulator.accepted() if m.destination.startswith("+306")}
    # Counted, not timed: what two replicas hold already and send meanwhile is a few; first come, first served is 190.
    assert sum(submitted_at < received_at < max(small) for received_at in large_requests) <= 30


async def test_urgent_goes_before_normal_and_normal_before_low(
    configure: Callable[..., Settings], simulator: Provider, peers: Peers
) -> None:
    settings = configure(
        sms_batch_size=1,
        worker_concurrency=4,
        rate_limit_traffic_account_max=10,
        rate_limit_traffic_account_window_ms=500,
    )
    async with serving(settings) as dispatcher:
        heads = {
            prefix: header(tenant_id=TENANT, campaign_id=str(uuid.uuid4()), priority=priority)
            for prefix, priority in LANES.items()
        }
        for head in heads.values():
            await dispatcher.pause(head)
        for prefix, head in heads.items():
            await submit(dispatcher, phones(20, first=int(prefix.ljust(12, "0"))), head)
        for head in heads.values():  # the least urgent first
            await dispatcher.resume(head)
        resumed_at = time.time()
        await eventually(lambda: peers.campaign.outcomes == {"ACCEPTED": 60})
    # What was claimed when the others were resumed is under way. From then on the order is strict, but for the one
    # batch of each sender that it claimed when there was nothing more urgent, and holds while it waits for a place.
    steady_from = resumed_at + timedelta(milliseconds=300).total_seconds()
    arrival_times: dict[str, list[float]] = {prefix: [] for prefix in LANES}
    for message in simulator.accepted():
        if message.received_at > steady_from:
            arrival_times[message.destination[1:4]].append(message.received_at)
    low, normal, urgent = (arrival_times[prefix] for prefix in LANES)
    assert len(low) >= 10
    assert sum(at < max(urgent) for at in normal) <= settings.worker_concurrency
    assert sum(at < max(normal) for at in low) <= settings.worker_concurrency
