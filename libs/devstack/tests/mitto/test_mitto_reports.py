"""Delivery reports: outcomes, and each way in which reports go astray."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from devstack.mitto.delivery import Delivery, Outcome, draw_lot
from devstack.mitto.process import SimulatorProcess
from devstack.mitto.report_posts import ReportSettings
from devstack.mitto.sink import ReportSink
from devstack.mitto.wire import BULK_PATH, MESSAGES_PATH, SEND_PATH

pytestmark = pytest.mark.slow

Bulk = Callable[[int], dict[str, Any]]
PROMPT = Delivery(first_status_seconds=0.0, next_status_seconds=0.0)


@pytest.fixture
def send(reporting: SimulatorProcess, http: httpx.Client, bulk: Bulk) -> Callable[[int], list[str]]:
    """Sends so many messages under the settings in force and waits for the end of their reports."""

    def run(count: int) -> list[str]:
        response = http.post(reporting.base_url + BULK_PATH, json=bulk(count)).json()
        assert reporting.control.wait_reports()
        return [item["messageId"] for item in response["messages"]]

    return run


def test_outcomes_go_by_destination(
    reporting: SimulatorProcess, sink: ReportSink, send: Callable[[int], list[str]], http: httpx.Client
) -> None:
    outcomes = (
        Outcome(statuses=("Sent", "Failure"), description="Absent subscriber", destination_suffix="1"),
        Outcome(statuses=("Expired",), destination_suffix="2"),
        Outcome(statuses=("Buffered",), destination_prefix="+306900000003"),
        Outcome(statuses=("Sent", "Teleported"), destination_suffix="4"),
    )
    reporting.control.set_behaviour(delivery=Delivery(outcomes, 0.0, 0.0))
    ids = send(6)
    statuses = sink.statuses()
    assert [statuses[message_id] for message_id in ids] == [
        ["Sent", "Delivered"],
        ["Sent", "Failure"],
        ["Expired"],
        ["Buffered"],
        ["Sent", "Teleported"],
        ["Sent", "Delivered"],
    ]
    described = {(report["deliveryStatus"], report["description"]) for report in sink.reports}
    assert ("Failure", "Absent subscriber") in described
    assert ("Sent", None) in described
    view = http.get(reporting.base_url + MESSAGES_PATH + ids[1]).json()
    assert (view["deliveryStatus"], view["description"]) == ("Failure", "Absent subscriber")


def test_outcomes_go_by_share(reporting: SimulatorProcess, sink: ReportSink, send: Callable[[int], list[str]]) -> None:
    outcomes = (Outcome(statuses=("Sent", "Failure"), share=0.3), Outcome(statuses=("Sent",), share=0.5))
    reporting.control.set_behaviour(delivery=Delivery(outcomes, 0.0, 0.0))
    send(1000)
    last = Counter(statuses[-1] for statuses in sink.statuses().values())
    assert 240 < last["Failure"] < 360
    assert 290 < last["Sent"] < 410, "half of the remaining seven tenths"
    assert last.total() == 1000


def test_lots_of_one_message_are_independent() -> None:
    first = [draw_lot(str(number), 1, "a") < 0.5 for number in range(4000)]
    second = [draw_lot(str(number), 1, "b") < 0.5 for number in range(4000)]
    both = sum(a and b for a, b in zip(first, second, strict=True))
    assert 850 < both < 1150


def test_reports_are_lost(reporting: SimulatorProcess, sink: ReportSink, send: Callable[[int], list[str]]) -> None:
    reporting.control.set_behaviour(delivery=PROMPT, reports=ReportSettings(lost_share=0.5))
    ids = send(500)
    statistics = reporting.control.stats().reports
    assert statistics.lost + len(sink.reports) == 1000
    assert 400 < statistics.lost < 600
    assert set(sink.statuses()) < set(ids)


def test_reports_are_duplicated(
    reporting: SimulatorProcess, sink: ReportSink, send: Callable[[int], list[str]]
) -> None:
    settings = ReportSettings(duplicated_share=1.0, duplicates=2, duplicate_seconds=0.05)
    reporting.control.set_behaviour(delivery=PROMPT, reports=settings)
    send(50)
    assert {tuple(sorted(statuses)) for statuses in sink.statuses().values()} == {("Delivered",) * 3 + ("Sent",) * 3}


def test_reports_are_reordered(reporting: SimulatorProcess, sink: ReportSink, send: Callable[[int], list[str]]) -> None:
    reporting.control.set_behaviour(delivery=PROMPT, reports=ReportSettings(reordered_share=1.0))
    ids = send(50)
    assert sink.statuses() == {message_id: ["Delivered", "Sent"] for message_id in ids}


def test_delayed_reports_are_overtaken(
    reporting: SimulatorProcess, sink: ReportSink, send: Callable[[int], list[str]]
) -> None:
    settings = ReportSettings(delayed_share=0.5, delayed_seconds=1.0)
    reporting.control.set_behaviour(delivery=PROMPT, reports=settings)
    send(40)
    assert reporting.control.stats().reports.delayed > 20
    orders = Counter(tuple(statuses) for statuses in sink.statuses().values())
    assert set(orders) == {("Sent", "Delivered"), ("Delivered", "Sent")}


@pytest.mark.parametrize("batch", [1, 7])
def test_reports_come_as_arrays(
    reporting: SimulatorProcess, sink: ReportSink, send: Callable[[int], list[str]], batch: int
) -> None:
    reporting.control.set_behaviour(delivery=PROMPT, reports=ReportSettings(batch=batch, array=True))
    ids = send(70)
    assert all(isinstance(post.body, list) for post in sink.posts)
    assert max(len(post.body) for post in sink.posts) == batch
    assert sink.statuses() == {message_id: ["Sent", "Delivered"] for message_id in ids}


def test_reports_come_with_a_wrong_or_no_secret_and_are_kept_as_unacknowledged(
    reporting: SimulatorProcess, sink: ReportSink, send: Callable[[int], list[str]]
) -> None:
    sink.status = lambda post: 200 if post.headers.get("x-dlr-secret") == "open sesame" else 401
    settings = ReportSettings(wrong_secret_share=0.3, no_secret_share=0.3)
    reporting.control.set_behaviour(delivery=PROMPT, reports=settings)
    send(200)
    secrets = Counter(post.headers.get("x-dlr-secret") for post in sink.posts)
    statistics = reporting.control.stats().reports
    assert secrets["wrong"] == statistics.wrong_secret > 60
    assert secrets[None] == statistics.no_secret > 40
    assert statistics.failed == statistics.wrong_secret + statistics.no_secret
    assert {post.http_status for post in reporting.control.unacknowledged()} == {401}


def test_reports_come_for_ids_never_handed_out(
    reporting: SimulatorProcess, sink: ReportSink, send: Callable[[int], list[str]]
) -> None:
    reporting.control.set_behaviour(delivery=PROMPT, reports=ReportSettings(unknown_id_share=1.0))
    ids = send(20)
    statuses = sink.statuses()
    assert len(statuses) == 20 + 40
    assert all(statuses[message_id] == ["Sent", "Delivered"] for message_id in ids)


def test_reports_come_under_older_names(
    reporting: SimulatorProcess, sink: ReportSink, send: Callable[[int], list[str]]
) -> None:
    outcome = Outcome(statuses=("Sent", "Failed"), error_code="1203")
    settings = ReportSettings(older_names_share=1.0)
    reporting.control.set_behaviour(delivery=Delivery((outcome,), 0.0, 0.0), reports=settings)
    send(1)
    assert [(report["status"], report["errorCode"]) for report in sink.reports] == [("Sent", None), ("Failed", "1203")]
    assert all("deliveryStatus" not in report for report in sink.reports)


def test_without_retries_a_rejected_report_is_gone_and_with_them_it_comes_again(
    reporting: SimulatorProcess, sink: ReportSink, send: Callable[[int], list[str]]
) -> None:
    reporting.control.set_behaviour(delivery=PROMPT)
    seen: set[tuple[str, str]] = set()

    def reject_first(post: Any) -> int:
        key = (post.body["messageId"], post.body["deliveryStatus"])
        known = key in seen
        seen.add(key)
        return 200 if known else 503

    sink.status = reject_first
    send(10)
    statistics = reporting.control.stats().reports
    assert (statistics.sent, statistics.acknowledged, statistics.failed) == (20, 0, 20)
    reporting.control.reset()
    settings = ReportSettings(retry_attempts=2, retry_seconds=0.05)
    reporting.control.set_behaviour(delivery=PROMPT, reports=settings)
    send(10)
    statistics = reporting.control.stats().reports
    assert (statistics.retried, statistics.acknowledged, statistics.failed) == (20, 20, 0)


def test_a_webhook_that_is_down_costs_the_reports_but_not_the_simulator(
    tmp_path: Path, http: httpx.Client, bulk: Bulk
) -> None:
    with ReportSink() as gone:
        url = gone.url
    with SimulatorProcess(tmp_path, report_url=url) as simulator:
        simulator.control.set_behaviour(delivery=PROMPT)
        assert http.post(simulator.base_url + BULK_PATH, json=bulk(1200)).status_code == 200
        assert simulator.control.wait_reports()
        statistics = simulator.control.stats().reports
        assert (statistics.failed, statistics.acknowledged) == (2400, 0)
        failures = {post.failure for post in simulator.control.unacknowledged()}
        assert failures == {"connect: ConnectionRefusedError"}
        with ReportSink() as sink:
            simulator.control.set_behaviour(delivery=PROMPT, reports=ReportSettings(url=sink.url))
            assert http.post(simulator.base_url + BULK_PATH, json=bulk(10)).status_code == 200
            assert simulator.control.wait_reports()
            assert len(sink.reports) == 20


def test_a_webhook_that_does_not_respond_in_time_has_not_acknowledged(
    reporting: SimulatorProcess, sink: ReportSink, send: Callable[[int], list[str]]
) -> None:
    release = threading.Event()

    def hang(_: Any) -> int:
        release.wait(10)
        return 200

    sink.status = hang
    reporting.control.set_behaviour(
        delivery=Delivery((Outcome(("Sent",)),), 0.0, 0.0), reports=ReportSettings(timeout_seconds=0.3)
    )
    send(2)
    release.set()
    assert {post.failure for post in reporting.control.unacknowledged()} == {"no response in time"}


def test_reports_are_paused_resumed_flushed_and_dropped(
    reporting: SimulatorProcess, sink: ReportSink, http: httpx.Client, bulk: Bulk
) -> None:
    control, url = reporting.control, reporting.base_url + BULK_PATH
    control.pause_reports()
    control.set_behaviour(delivery=PROMPT)
    http.post(url, json=bulk(5))
    assert not control.wait_reports(0.2)
    assert sink.reports == []
    control.resume_reports()
    assert control.wait_reports()
    assert len(sink.reports) == 10
    control.set_behaviour(delivery=Delivery(first_status_seconds=3600))
    response = http.post(url, json=bulk(5)).json()
    message_url = reporting.base_url + MESSAGES_PATH + response["messages"][0]["messageId"]
    assert control.stats().reports.pending_requests == 1
    assert http.get(message_url).json()["deliveryStatus"] == "Pending"
    assert control.flush_reports()
    assert len(sink.reports) == 20
    assert http.get(message_url).json()["deliveryStatus"] == "Delivered"
    http.post(url, json=bulk(5))
    control.drop_reports()
    assert control.wait_reports(0.2)
    assert len(sink.reports) == 20


def test_reports_keep_to_a_rate(
    reporting: SimulatorProcess, sink: ReportSink, send: Callable[[int], list[str]]
) -> None:
    delivery = Delivery((Outcome(("Delivered",)),), 0.0, 0.0)
    reporting.control.set_behaviour(delivery=delivery, reports=ReportSettings(per_second=100))
    began = time.monotonic()
    send(60)
    assert time.monotonic() - began > 0.4
    assert len(sink.reports) == 60


def test_single_messages_are_reported_too(
    reporting: SimulatorProcess, sink: ReportSink, http: httpx.Client, bulk: Bulk
) -> None:
    reporting.control.set_behaviour(delivery=PROMPT)
    sent = http.post(reporting.base_url + SEND_PATH, json=bulk(1)["messages"][0]).json()
    assert reporting.control.wait_reports()
    assert sink.statuses() == {sent["messages"][0]["messageId"]: ["Sent", "Delivered"]}


def test_a_webhook_that_closes_after_each_response_gets_every_report(
    reporting: SimulatorProcess, sink: ReportSink, send: Callable[[int], list[str]]
) -> None:
    sink.close_connections = True
    reporting.control.set_behaviour(delivery=PROMPT)
    ids = send(100)
    assert sink.statuses() == {message_id: ["Sent", "Delivered"] for message_id in ids}
    assert len({post.client for post in sink.posts}) == 200
