"""The simulator as Mitto is when nothing goes wrong."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from devstack.mitto.message_ids import ulid_milliseconds
from devstack.mitto.process import SimulatorProcess
from devstack.mitto.sink import ReportSink
from devstack.mitto.wire import BULK_PATH, MESSAGES_PATH, SEND_PATH, count_parts

pytestmark = pytest.mark.slow

Bulk = Callable[[int], dict[str, Any]]
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
ULID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")


def test_a_bulk_gets_ids_by_position_and_the_log_agrees(
    simulator: SimulatorProcess, http: httpx.Client, bulk: Bulk
) -> None:
    body = bulk(1000)
    response = http.post(simulator.base_url + BULK_PATH, json=body)
    assert response.status_code == 200
    assert UUID.fullmatch(response.json()["bulkId"])
    ids = [item["messageId"] for item in response.json()["messages"]]
    assert all(ULID.fullmatch(message_id) for message_id in ids)
    assert len(set(ids)) == 1000
    assert ids != sorted(ids), "ids must not happen to sort as the messages do"
    accepted = list(simulator.control.accepted())
    assert [message.message_id for message in accepted] == ids
    assert [message.destination for message in accepted] == [m["destination"] for m in body["messages"]]
    assert [message.text for message in accepted] == [m["sms"]["text"] for m in body["messages"]]
    assert {message.bulk_id for message in accepted} == {response.json()["bulkId"]}
    assert {message.sender for message in accepted} == {"Astronote"}


def test_a_bulk_may_be_larger_than_one_block_of_ids(
    simulator: SimulatorProcess, http: httpx.Client, bulk: Bulk
) -> None:
    response = http.post(simulator.base_url + BULK_PATH, json=bulk(40_000)).json()
    ids = [item["messageId"] for item in response["messages"]]
    assert len(set(ids)) == 40_000
    last = http.get(simulator.base_url + MESSAGES_PATH + ids[-1]).json()
    assert last["text"] == "Γειά σου 39999"


def test_a_single_message_gets_one_id_whose_time_is_its_creation(
    simulator: SimulatorProcess, http: httpx.Client, bulk: Bulk
) -> None:
    before = int(time.time() * 1000)
    response = http.post(simulator.base_url + SEND_PATH, json=bulk(1)["messages"][0]).json()
    (item,) = response["messages"]
    assert set(item) == {"trafficAccountId", "messageId"}
    assert before <= ulid_milliseconds(item["messageId"]) <= int(time.time() * 1000)
    view = http.get(simulator.base_url + MESSAGES_PATH + item["messageId"]).json()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{7}Z", view["createdAt"])
    assert view["messageParts"] == 1
    assert view["requestInfo"] == {"sms": {"text": "Γειά σου 0", "sender": "Astronote"}}
    assert view["conversation"]["participants"][0]["messagingAppIdentifier"] == "+306900000000"


def test_every_message_is_reported_sent_and_then_delivered(
    reporting: SimulatorProcess, sink: ReportSink, http: httpx.Client, bulk: Bulk
) -> None:
    response = http.post(reporting.base_url + BULK_PATH, json=bulk(300)).json()
    assert reporting.control.wait_reports()
    ids = {item["messageId"] for item in response["messages"]}
    assert sink.statuses() == {message_id: ["Sent", "Delivered"] for message_id in ids}
    assert {post.headers["x-dlr-secret"] for post in sink.posts} == {"open sesame"}
    assert len({post.client for post in sink.posts}) <= 16
    view = http.get(reporting.base_url + MESSAGES_PATH + ids.pop()).json()
    assert view["deliveryStatus"] == "Delivered"
    statistics = reporting.control.stats().reports
    assert (statistics.sent, statistics.acknowledged, statistics.failed) == (600, 600, 0)


def test_nothing_is_ever_deduplicated(simulator: SimulatorProcess, http: httpx.Client, bulk: Bulk) -> None:
    for _ in range(3):
        http.post(simulator.base_url + BULK_PATH, json=bulk(10))
    duplicates = simulator.control.duplicates()
    assert (duplicates.messages, duplicates.distinct, duplicates.surplus, duplicates.worst) == (30, 10, 20, 3)


def test_an_unknown_message_or_path_is_not_found(simulator: SimulatorProcess, http: httpx.Client) -> None:
    unknown = http.get(simulator.base_url + MESSAGES_PATH + "01ARZ3NDEKTSV4RRFFQ69G5FAV")
    assert unknown.status_code == 404
    assert http.get(simulator.base_url + MESSAGES_PATH + "no-ulid").status_code == 404
    assert http.post(simulator.base_url + "/api/v1.1/Nothing", json={}).status_code == 404


def test_what_is_no_message_is_rejected_and_not_logged(simulator: SimulatorProcess, http: httpx.Client) -> None:
    for body in (b"", b"[]", b'{"messages":[]}', b'{"messages":[{"destination":"+30"}]}', b"\xff"):
        response = http.post(simulator.base_url + BULK_PATH, content=body)
        assert response.status_code == 400
        assert response.json()["errors"]["Messages"]
    assert list(simulator.control.accepted()) == []


def test_a_wrong_api_key_is_rejected(tmp_path: Path, http: httpx.Client, bulk: Bulk) -> None:
    with SimulatorProcess(tmp_path, api_key="right") as simulator:
        url = simulator.base_url + BULK_PATH
        assert http.post(url, json=bulk(1)).status_code == 401
        assert http.post(url, json=bulk(1), headers={"X-Mitto-API-Key": "wrong"}).status_code == 401
        assert http.post(url, json=bulk(1), headers={"X-Mitto-API-Key": "right"}).status_code == 200
        assert len(list(simulator.control.accepted())) == 1


def test_parts_are_counted_as_handsets_count_them() -> None:
    assert count_parts("") == 1
    assert count_parts("a" * 160) == 1
    assert count_parts("a" * 161) == 2
    assert count_parts("a" * 306) == 2
    assert count_parts("a" * 307) == 3
    assert count_parts("€" * 80) == 1
    assert count_parts("a" * 152 + "€" + "a" * 8) == 2, "an extension character is not split: 152, then 2 + 8"
    assert count_parts("a" * 152 + "€" + "a" * 151 + "€") == 3
    assert count_parts("ΔΦΓΛΩΠΨΣΘΞ" * 16) == 1
    assert count_parts("Γ" * 160 + "ά") == 3
    assert count_parts("ά" * 70) == 1
    assert count_parts("ά" * 71) == 2
    assert count_parts("😀" * 35) == 1
    assert count_parts("😀" * 67) == 3, "33 pairs a part: none is split"
