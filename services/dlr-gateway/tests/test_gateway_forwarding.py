from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from contextlib import closing
from typing import Any

import grpc
import httpx
import pytest

from bulksms.campaign.v1 import results_pb2
from devstack.eventually import eventually

pytestmark = pytest.mark.slow

PATH = "/v1/mitto/delivery-reports"


async def send(gateway: Any, *ids: str, status: str = "Delivered", **fields: Any) -> None:
    body = [{"messageId": message_id, "deliveryStatus": status, **fields} for message_id in ids]
    async with httpx.AsyncClient() as client:
        response = await client.post(gateway.url + PATH, json=body, headers={"X-Dlr-Secret": gateway.secret})
    assert response.status_code == 200, response.text


async def wait_for_row(gateway: Any, table: str, reason: str = "") -> Any:
    """The first row of a table of the spool, once there is one (of that reason)."""

    def first() -> str:
        return next((str(row) for row in rows(gateway, table) if not reason or reason in row), "")

    return await eventually(first, 60, f"a row {reason} of {table}")


async def wait_until_empty(gateway: Any, table: str) -> None:
    await eventually(lambda: not rows(gateway, table), 60, f"{table} to be empty")


def rows(gateway: Any, table: str) -> list[Any]:
    with closing(sqlite3.connect(gateway.spool_path)) as connection:
        return connection.execute(f"SELECT * FROM {table}").fetchall()


async def test_a_report_arrives_whole_at_campaign(start_gateway: Any, peers: Any) -> None:
    gateway = start_gateway(peers.port)
    before = time.time()
    await send(
        gateway,
        "01JD9ZK3M5T8V7W2X4Y6Z8A0BC",
        status="Failure",
        description="Absent +306912345678",
        errorCode="27",
        updatedAt="2026-11-22T10:00:05.7654321Z",
    )
    await peers.until(lambda: bool(peers.reports))
    (report,) = peers.reports
    assert report.provider_message_id == "01JD9ZK3M5T8V7W2X4Y6Z8A0BC"
    assert report.status == results_pb2.DELIVERY_STATUS_FAILED
    assert (report.raw_status, report.description, report.error_code) == ("Failure", "Absent ***", "27")
    assert report.provider_updated_at.ToJsonString() == "2026-11-22T10:00:05.765432Z"
    assert before - 1 < report.received_at.ToNanoseconds() / 1e9 < time.time() + 1
    await wait_until_empty(gateway, "fresh")


async def test_an_unknown_status_is_passed_on_raw_and_a_missing_time_is_unset(start_gateway: Any, peers: Any) -> None:
    gateway = start_gateway(peers.port)
    await send(gateway, "A", status="Seen", updatedAt="soon")
    await peers.until(lambda: bool(peers.reports))
    assert peers.reports[0].status == results_pb2.DELIVERY_STATUS_UNSPECIFIED
    assert peers.reports[0].raw_status == "Seen"
    assert not peers.reports[0].HasField("provider_updated_at")


async def test_a_report_that_outran_the_batch_result_is_offered_again_until_it_is_known(
    start_gateway: Any, peers: Any
) -> None:
    gateway = start_gateway(peers.port)
    peers.unknown = lambda message_id: message_id == "early" and peers.ids.count("early") < 4
    await send(gateway, "early", "known")
    await peers.until(lambda: peers.ids.count("early") == 4)
    await wait_until_empty(gateway, "waiting")
    assert peers.ids.count("known") == 1
    assert peers.evidence == []


async def test_fresh_reports_are_not_held_up_by_those_that_wait(start_gateway: Any, peers: Any) -> None:
    gateway = start_gateway(peers.port, FORWARD_BATCH_SIZE="100")
    peers.unknown = lambda message_id: message_id.startswith("unknown")
    for part in range(10):
        await send(gateway, *(f"unknown-{part}-{number}" for number in range(500)))
    await peers.until(lambda: len(peers.ids) >= 5_000)
    begun = time.perf_counter()
    await send(gateway, "fresh")
    await peers.until(lambda: "fresh" in peers.ids)
    assert time.perf_counter() - begun < 5  # behind 5,000 retries in a row it would be much later


async def test_what_campaign_does_not_know_goes_to_the_dispatcher(start_gateway: Any, peers: Any) -> None:
    gateway = start_gateway(peers.port, EVIDENCE_AFTER_SECONDS="0.2")
    peers.unknown = lambda _: True
    peers.evidence_unknown = lambda message_id: message_id != "single"
    await send(gateway, "single", "nobodys")
    await peers.until(lambda: peers.evidence_ids.count("nobodys") >= 2)
    assert peers.evidence_ids.count("single") == 1


async def test_what_nobody_knows_is_quarantined_at_the_horizon(start_gateway: Any, peers: Any) -> None:
    gateway = start_gateway(peers.port, EVIDENCE_AFTER_SECONDS="0.1", UNKNOWN_HORIZON_SECONDS="0.5")
    peers.unknown = lambda message_id: message_id == "nobodys"
    await send(gateway, "nobodys", "known")
    row = await wait_for_row(gateway, "quarantine", "UNKNOWN_MESSAGE")
    assert "nobodys" in row
    assert "nobodys" in peers.evidence_ids
    await wait_until_empty(gateway, "waiting")


async def test_a_dispatcher_that_does_not_offer_the_call_yet_is_as_good_as_one_that_does_not_know(
    start_gateway: Any, peers: Any
) -> None:
    gateway = start_gateway(peers.port, EVIDENCE_AFTER_SECONDS="0", UNKNOWN_HORIZON_SECONDS="0.3")
    peers.unknown = lambda _: True
    peers.evidence_fails = grpc.StatusCode.UNIMPLEMENTED
    await send(gateway, "A")
    await wait_for_row(gateway, "quarantine", "UNKNOWN_MESSAGE")


async def test_nothing_is_given_up_while_the_dispatcher_is_away(start_gateway: Any, peers: Any) -> None:
    gateway = start_gateway(peers.port, EVIDENCE_AFTER_SECONDS="0", UNKNOWN_HORIZON_SECONDS="0.1")
    peers.unknown = lambda _: True
    peers.evidence_fails = grpc.StatusCode.UNAVAILABLE
    await send(gateway, "A")
    await peers.until(lambda: len(peers.evidence_ids) >= 4)
    peers.evidence_fails, peers.evidence_unknown = None, lambda _: False
    await wait_until_empty(gateway, "waiting")
    assert sqlite3.connect(gateway.spool_path).execute("SELECT count(*) FROM quarantine").fetchone() == (0,)


async def test_while_campaign_is_away_reports_are_taken_and_kept_and_then_forwarded(
    start_gateway: Any, peers: Any
) -> None:
    gateway = start_gateway(peers.port)
    await peers.stop()
    ids = [f"{number}" for number in range(3_000)]
    for start in range(0, 3_000, 500):
        await send(gateway, *ids[start : start + 500])
    await peers.start()
    await peers.until(lambda: len(set(peers.ids)) == 3_000)
    assert max(peers.batches) <= 1_000
    await wait_until_empty(gateway, "fresh")


async def test_a_campaign_that_is_too_slow_is_asked_again(start_gateway: Any, peers: Any) -> None:
    gateway = start_gateway(peers.port, FORWARD_TIMEOUT_SECONDS="0.3")
    peers.delay_seconds = 2.0
    await send(gateway, "A")
    await peers.until(lambda: len(peers.traceparents) >= 2)
    peers.delay_seconds = 0.0
    await peers.until(lambda: "A" in peers.ids)
    await wait_until_empty(gateway, "fresh")


async def test_one_report_that_campaign_refuses_does_not_take_the_others_with_it(
    start_gateway: Any, peers: Any
) -> None:
    gateway = start_gateway(peers.port)
    peers.fails = lambda request: (
        grpc.StatusCode.INVALID_ARGUMENT
        if any(report.provider_message_id == "bad" for report in request.reports)
        else None
    )
    await send(gateway, *(f"{number}" for number in range(50)), "bad", *(f"{number}" for number in range(50, 100)))
    await peers.until(lambda: len(set(peers.ids)) == 100)
    assert '"bad"' in await wait_for_row(gateway, "quarantine", "REFUSED")
    assert sorted(peers.ids, key=int) == [f"{number}" for number in range(100)]


async def test_one_report_that_breaks_campaign_is_put_aside_and_not_given_up(start_gateway: Any, peers: Any) -> None:
    gateway = start_gateway(peers.port)
    peers.fails = lambda request: (
        grpc.StatusCode.INTERNAL if any(report.provider_message_id == "odd" for report in request.reports) else None
    )
    await send(gateway, "odd", "even")
    await peers.until(lambda: "even" in peers.ids)
    assert '"odd"' in await wait_for_row(gateway, "waiting")
    peers.fails = lambda _: None
    await send(gateway, "next")
    await peers.until(lambda: "next" in peers.ids)


async def test_no_acknowledged_report_is_lost_when_the_gateway_is_killed_again_and_again(
    start_gateway: Any, peers: Any
) -> None:
    acknowledged: list[str] = []

    async def report(gateway: Any, prefix: str) -> None:
        headers = {"X-Dlr-Secret": gateway.secret}
        async with httpx.AsyncClient(base_url=gateway.url, headers=headers) as client:
            for number in range(1_000_000):
                body = [{"messageId": f"{prefix}-{number}-{part}", "status": "Sent"} for part in range(10)]
                try:
                    response = await client.post(PATH, json=body)
                except httpx.TransportError:
                    return
                if response.status_code == 200:
                    acknowledged.extend(item["messageId"] for item in body)
                    peers.changed.set()

    for round_number in range(4):
        gateway = start_gateway(peers.port)
        before = len(acknowledged)
        clients = [asyncio.create_task(report(gateway, f"{round_number}-{client}")) for client in range(6)]
        # At an arbitrary moment of its work, a later one each round.
        await peers.until(lambda before=before, n=round_number: len(acknowledged) > before + 100 * (n + 1))  # type: ignore[misc]
        gateway.kill()
        await asyncio.gather(*clients)
    start_gateway(peers.port)
    await peers.until(lambda: set(acknowledged) <= set(peers.ids))
    print(f"\n{len(acknowledged)} acknowledged over 4 kills, {len(peers.ids)} forwarded, 0 lost")  # noqa: T201 - a figure to look at


async def test_a_burst_is_taken_and_forwarded_whole(start_gateway: Any, peers: Any) -> None:
    gateway = start_gateway(peers.port)
    total, clients = 3_000, 30
    numbers = iter(range(total))

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        for number in numbers:
            body = json.dumps({"messageId": f"{number}", "deliveryStatus": "Delivered"}).encode()
            head = f"POST {PATH} HTTP/1.1\r\nX-Dlr-Secret: {gateway.secret}\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            response = await reader.readuntil(b"}")
            assert response.startswith(b"HTTP/1.1 200 "), response
        writer.close()

    begun = time.perf_counter()
    async with asyncio.timeout(60):
        await asyncio.gather(*(client() for _ in range(clients)))
    taken = time.perf_counter() - begun
    await peers.until(lambda: len(peers.ids) >= total, 60)
    forwarded = time.perf_counter() - begun
    assert sorted(map(int, peers.ids)) == list(range(total))
    print(f"\none report a request: {total / taken:.0f}/s taken, {total / forwarded:.0f}/s forwarded")  # noqa: T201 - a figure to look at
    begun = time.perf_counter()
    for part in range(10):
        await send(gateway, *(f"array-{part}-{number}" for number in range(5_000)))
    await peers.until(lambda: len(peers.ids) >= total + 50_000, 60)
    print(f"arrays of 5,000: {50_000 / (time.perf_counter() - begun):.0f}/s taken and forwarded")  # noqa: T201 - a figure to look at


async def test_the_call_to_campaign_carries_the_trace(start_gateway: Any, peers: Any) -> None:
    gateway = start_gateway(peers.port)
    await send(gateway, "A")
    await peers.until(lambda: bool(peers.traceparents))
    assert len(peers.traceparents[0].split("-")) == 4
