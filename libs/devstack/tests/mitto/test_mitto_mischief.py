"""Each way in which a request can go wrong, over a real socket."""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
import pytest

from devstack.mitto.behaviours import NAMED, Behaviour, Latency, PartialRejection
from devstack.mitto.client import SimulatorError
from devstack.mitto.process import SimulatorProcess
from devstack.mitto.rules import Match, Rule
from devstack.mitto.sink import ReportSink
from devstack.mitto.wire import BULK_PATH, MESSAGES_PATH, SEND_PATH

pytestmark = pytest.mark.slow

Bulk = Callable[[int], dict[str, Any]]


def accepted_count(simulator: SimulatorProcess) -> int:
    return sum(1 for _ in simulator.control.accepted())


def last_outcome(simulator: SimulatorProcess) -> str:
    return simulator.control.requests()[-1].outcome


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 429, 500, 502, 503])
def test_an_error_status_accepts_nothing(
    simulator: SimulatorProcess, http: httpx.Client, bulk: Bulk, status: int
) -> None:
    simulator.control.script(str(status))
    response = http.post(simulator.base_url + BULK_PATH, json=bulk(3))
    assert response.status_code == status
    assert response.json()["message"]
    assert "retry-after" not in response.headers
    assert accepted_count(simulator) == 0


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_server_error_may_come_after_acceptance(
    simulator: SimulatorProcess, http: httpx.Client, bulk: Bulk, status: int
) -> None:
    simulator.control.script(f"accept-then-{status}")
    assert http.post(simulator.base_url + BULK_PATH, json=bulk(3)).status_code == status
    assert accepted_count(simulator) == 3


def test_retry_after_comes_in_seconds_or_as_a_date(simulator: SimulatorProcess, http: httpx.Client, bulk: Bulk) -> None:
    simulator.control.script(
        Behaviour(status=429, retry_after="seconds", retry_after_seconds=7),
        Behaviour(status=429, retry_after="date", retry_after_seconds=60),
    )
    url = simulator.base_url + BULK_PATH
    assert http.post(url, json=bulk(1)).headers["retry-after"] == "7"
    date = parsedate_to_datetime(http.post(url, json=bulk(1)).headers["retry-after"])
    assert 50 < (date - datetime.now(UTC)).total_seconds() <= 60


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("message", '{"message":"Text too long"}'),
        ("error", '{"error":"Text too long"}'),
        ("errors", '{"title":"Text too long","status":400,"errors":{"Messages":["Text too long"]}}'),
        ("text", "Text too long"),
        ("empty", ""),
    ],
)
def test_an_error_has_the_body_that_was_asked_for(
    simulator: SimulatorProcess, http: httpx.Client, bulk: Bulk, form: str, expected: str
) -> None:
    wanted = json.dumps({"status": 400, "error": form, "error_text": "Text too long"})
    response = http.post(simulator.base_url + BULK_PATH, json=bulk(1), headers={"X-Simulate": wanted})
    assert (response.status_code, response.text) == (400, expected)


@pytest.mark.parametrize(("name", "accepted"), [("accept-then-reset", 3), ("reset", 0)])
def test_a_reset_before_the_response_leaves_the_client_in_the_dark(
    simulator: SimulatorProcess, http: httpx.Client, bulk: Bulk, name: str, accepted: int
) -> None:
    with pytest.raises(httpx.ReadError):
        http.post(simulator.base_url + BULK_PATH, json=bulk(3), headers={"X-Simulate": name})
    assert accepted_count(simulator) == accepted
    assert last_outcome(simulator) == "reset"


@pytest.mark.parametrize(("name", "accepted"), [("accept-then-never-respond", 3), ("never-respond", 0)])
def test_a_response_may_never_come(
    simulator: SimulatorProcess, http: httpx.Client, bulk: Bulk, name: str, accepted: int
) -> None:
    with pytest.raises(httpx.ReadTimeout):
        http.post(simulator.base_url + BULK_PATH, json=bulk(3), headers={"X-Simulate": name}, timeout=0.3)
    assert accepted_count(simulator) == accepted
    assert last_outcome(simulator) == "never responded"


@pytest.mark.parametrize(("end", "at_byte"), [("close", 0), ("close", 10), ("close", 250), ("reset", 250)])
def test_a_response_is_cut_at_the_byte_that_was_asked_for(
    simulator: SimulatorProcess, bulk: Bulk, end: str, at_byte: int
) -> None:
    behaviour = json.dumps({"response": "cut", "cut_at_byte": at_byte, "cut_end": end})
    received, was_reset = exchange(simulator, post(bulk(100), f"X-Simulate: {behaviour}"))
    assert len(received) == at_byte
    assert was_reset == (end == "reset")
    assert accepted_count(simulator) == 100
    assert last_outcome(simulator) == "response cut"


@pytest.mark.parametrize("at_byte", [1, 5_000, 10_000_000])
def test_a_request_that_is_cut_is_reset_and_not_accepted(
    simulator: SimulatorProcess, http: httpx.Client, bulk: Bulk, at_byte: int
) -> None:
    simulator.control.script(Behaviour(cut_request_at_byte=at_byte))
    # Which error it is depends on whether the reset met a write or a read.
    with pytest.raises(httpx.TransportError):
        http.post(simulator.base_url + BULK_PATH, json=bulk(20_000))
    assert accepted_count(simulator) == 0
    assert last_outcome(simulator) == "request cut"
    assert http.post(simulator.base_url + BULK_PATH, json=bulk(1)).status_code == 200


def test_connections_are_refused_for_a_while(simulator: SimulatorProcess, http: httpx.Client, bulk: Bulk) -> None:
    url = simulator.base_url + BULK_PATH
    assert http.post(url, json=bulk(1)).status_code == 200
    simulator.control.refuse_connections(0.5, drop_connections=True)
    refused = 0
    deadline = time.monotonic() + 10
    response = None
    while response is None:
        assert time.monotonic() < deadline
        try:
            response = http.post(url, json=bulk(1))
        except httpx.TransportError:
            refused += 1
    assert refused > 0
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("behaviour", "check"),
    [
        (Behaviour(ids="short", ids_count=2), lambda returned, true: returned == true[:-2]),
        (Behaviour(ids="long", ids_count=2), lambda returned, true: returned[:-2] == true and len(returned) == 12),
        (Behaviour(ids="shuffled"), lambda returned, true: returned != true and set(returned) == set(true)),
        (Behaviour(ids="repeated", ids_count=1), lambda returned, true: returned == [true[0], true[0], *true[2:]]),
        (Behaviour(ids="null", ids_count=1), lambda returned, true: returned == [None, *true[1:]]),
        (Behaviour(ids="missing", ids_count=1), lambda returned, true: returned == [None, *true[1:]]),
        (Behaviour(ids="empty"), lambda returned, _: returned == []),
    ],
    ids=lambda value: value.ids if isinstance(value, Behaviour) else "",
)
def test_ids_in_the_response_may_lie_but_the_log_does_not(
    simulator: SimulatorProcess,
    http: httpx.Client,
    bulk: Bulk,
    behaviour: Behaviour,
    check: Callable[[list[str | None], list[str]], bool],
) -> None:
    simulator.control.script(behaviour)
    response = http.post(simulator.base_url + BULK_PATH, json=bulk(10)).json()
    returned = [item.get("messageId") for item in response["messages"]]
    true = [message.message_id for message in simulator.control.accepted()]
    assert len(true) == 10
    assert check(returned, true)


def test_known_ids_are_those_of_an_earlier_request(simulator: SimulatorProcess, http: httpx.Client, bulk: Bulk) -> None:
    url = simulator.base_url + BULK_PATH
    earlier = [item["messageId"] for item in http.post(url, json=bulk(5)).json()["messages"]]
    simulator.control.script(Behaviour(ids="known", ids_count=2))
    returned = [item["messageId"] for item in http.post(url, json=bulk(5)).json()["messages"]]
    true = [message.message_id for message in simulator.control.accepted()][5:]
    assert returned == earlier[:2] + true[2:]


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("short", ["id", "id"]),
        ("null_id", ["id", None, "id"]),
        ("item_error", ["id", "error", "id"]),
    ],
)
def test_some_messages_of_a_bulk_are_rejected(
    simulator: SimulatorProcess, http: httpx.Client, bulk: Bulk, form: Any, expected: list[str | None]
) -> None:
    simulator.control.script(Behaviour(partial=PartialRejection(form=form, destination_suffix="01")))
    response = http.post(simulator.base_url + BULK_PATH, json=bulk(3))
    items = response.json()["messages"]
    assert response.status_code == 200
    shown = ["error" if "error" in item else item["messageId"] and "id" for item in items]
    assert shown == expected
    accepted = list(simulator.control.accepted())
    assert [message.destination for message in accepted] == ["+306900000000", "+306900000002"]
    assert [message.message_id for message in accepted] == [m["messageId"] for m in items if m.get("messageId")]


def test_one_bad_message_may_fail_the_whole_bulk(simulator: SimulatorProcess, http: httpx.Client, bulk: Bulk) -> None:
    simulator.control.set_behaviour(
        rules=[Rule(do=Behaviour(partial=PartialRejection(form="whole_400", destination_suffix="2")))]
    )
    response = http.post(simulator.base_url + BULK_PATH, json=bulk(3))
    assert response.status_code == 400
    assert list(response.json()["errors"]) == ["Messages[2].Destination"]
    assert http.post(simulator.base_url + BULK_PATH, json=bulk(2)).status_code == 200
    assert accepted_count(simulator) == 2


def test_the_response_may_be_html_huge_half_or_empty(
    simulator: SimulatorProcess, http: httpx.Client, bulk: Bulk
) -> None:
    simulator.control.script("html-with-200", "huge-response", "truncated-json", "empty-response")
    html, huge, half, empty = (http.post(simulator.base_url + BULK_PATH, json=bulk(3)) for _ in range(4))
    assert html.status_code == 200
    assert html.headers["content-type"].startswith("text/html")
    assert len(huge.content) == 10_000_000
    assert len(huge.json()["messages"]) == 3
    assert half.status_code == 200
    with pytest.raises(json.JSONDecodeError):
        half.json()
    assert (empty.status_code, empty.content) == (200, b"")
    assert accepted_count(simulator) == 12


def test_the_single_send_responds_in_three_shapes(simulator: SimulatorProcess, http: httpx.Client, bulk: Bulk) -> None:
    message = bulk(1)["messages"][0]
    simulator.control.script("polite", "flat-message-id", "flat-id")
    nested, flat, flat_id = (http.post(simulator.base_url + SEND_PATH, json=message).json() for _ in range(3))
    true = [accepted.message_id for accepted in simulator.control.accepted()]
    assert [nested["messages"][0]["messageId"], flat["messageId"], flat_id["id"]] == true


def test_a_response_may_drip(simulator: SimulatorProcess, http: httpx.Client, bulk: Bulk) -> None:
    simulator.control.script(Behaviour(response="drip", drip_bytes=50, drip_interval_seconds=0.02))
    began = time.monotonic()
    response = http.post(simulator.base_url + BULK_PATH, json=bulk(5))
    assert len(response.json()["messages"]) == 5
    assert time.monotonic() - began > 0.02 * len(response.content) / 50


def test_latency_is_waited_for_after_acceptance(simulator: SimulatorProcess, http: httpx.Client, bulk: Bulk) -> None:
    simulator.control.script(Behaviour(latency=Latency(constant_seconds=0.3)))
    began = time.monotonic()
    assert http.post(simulator.base_url + BULK_PATH, json=bulk(1)).status_code == 200
    assert time.monotonic() - began >= 0.3
    simulator.control.script(Behaviour(latency=Latency(constant_seconds=60)))
    with pytest.raises(httpx.ReadTimeout):
        http.post(simulator.base_url + BULK_PATH, json=bulk(1), timeout=0.2)
    assert accepted_count(simulator) == 2


def test_a_long_tail_is_long_and_repeatable() -> None:
    from random import Random

    latency = Latency(median_seconds=0.1, sigma=1.0, max_seconds=2.0)
    waits = sorted(latency.draw(random) for random in [Random(1)] for _ in range(1000))
    assert waits == sorted(latency.draw(random) for random in [Random(1)] for _ in range(1000))
    assert 0.08 < waits[500] < 0.12
    assert waits[989] > 0.5
    assert waits[-1] <= 2.0


def test_reports_may_come_before_the_response(
    reporting: SimulatorProcess, sink: ReportSink, http: httpx.Client, bulk: Bulk
) -> None:
    reporting.control.script("reports-first")
    response = http.post(reporting.base_url + BULK_PATH, json=bulk(600)).json()
    assert sink.statuses() == {item["messageId"]: ["Sent", "Delivered"] for item in response["messages"]}


def test_what_is_accepted_without_a_response_is_still_reported(
    reporting: SimulatorProcess, sink: ReportSink, http: httpx.Client, bulk: Bulk
) -> None:
    with pytest.raises(httpx.ReadError):
        http.post(reporting.base_url + BULK_PATH, json=bulk(3), headers={"X-Simulate": "accept-then-reset"})
    assert reporting.control.wait_reports()
    assert set(sink.statuses()) == {message.message_id for message in reporting.control.accepted()}


def test_a_script_is_used_up_in_order_by_the_requests_it_matches(
    simulator: SimulatorProcess, http: httpx.Client, bulk: Bulk
) -> None:
    simulator.control.script("500", "429", match=Match(destination_prefix="+30690000001"))
    simulator.control.script("503", match=Match(path="get"))
    small, large = bulk(5), bulk(15)
    posted = [http.post(simulator.base_url + BULK_PATH, json=body).status_code for body in (small, large, small)]
    assert posted == [200, 500, 200]
    assert http.get(simulator.base_url + MESSAGES_PATH + "x").status_code == 503
    assert simulator.control.stats().script_steps_remaining == 1
    posted = [http.post(simulator.base_url + BULK_PATH, json=body).status_code for body in (large, large)]
    assert posted == [429, 200]


def test_a_rule_applies_to_the_nth_or_every_nth_request_or_to_a_share(
    simulator: SimulatorProcess, http: httpx.Client, bulk: Bulk
) -> None:
    def statuses(rule: Rule, count: int) -> list[int]:
        simulator.control.set_behaviour(rules=[rule])
        return [http.post(simulator.base_url + BULK_PATH, json=bulk(1)).status_code for _ in range(count)]

    assert statuses(Rule(do="503", nth=(2, 4)), 5) == [200, 503, 200, 503, 200]
    assert statuses(Rule(do="503", every=3), 6) == [200, 200, 503, 200, 200, 503]
    assert statuses(Rule(do="503", match=Match(traffic_account="another")), 2) == [200, 200]
    drawn = statuses(Rule(do="503", share=0.3), 100)
    assert 15 <= drawn.count(503) <= 45
    assert drawn == statuses(Rule(do="503", share=0.3), 100), "the same seed draws the same"


def test_behaviour_that_cannot_be_is_rejected_with_field_and_cure(
    simulator: SimulatorProcess, http: httpx.Client, bulk: Bulk
) -> None:
    control = simulator.control
    control.set_behaviour(rules=[Rule(do="503")])
    url = simulator.base_url + "/control/behaviour"
    rejected = [
        ({"rules": [{"do": {"latenzy": 1}}]}, r"unknown field `latenzy` - at `\$\.rules\[0\]\.do`"),
        ({"rules": [{"do": "sulk"}]}, "no behaviour is called 'sulk'; the names are: polite"),
        ({"rules": [{"do": "503", "share": 2}]}, r"<= 1.* - at `\$\.rules\[0\]\.share`"),
        ({"rules": [{"do": "cut-request", "match": {"traffic_account": "a"}}]}, "cut_request_at_byte: happens before"),
        ({"reports": {"url": "ftp://x"}}, "expected http"),
        ({"delivery": {"outcomes": [{"statuses": []}]}}, r"at `\$\.delivery\.outcomes\[0\]\.statuses`"),
    ]
    for body, text in rejected:
        response = http.put(url, json=body)
        assert response.status_code == 400
        assert re.search(text, response.json()["message"]), response.text
    assert control.behaviour().rules == (Rule(do="503"),), "an error changes nothing"
    with pytest.raises(SimulatorError, match="no behaviour is called"):
        control.script("sulk")
    bad = http.post(simulator.base_url + BULK_PATH, json=bulk(1), headers={"X-Simulate": '{"x":1}'})
    assert bad.status_code == 400
    assert "X-Simulate" in bad.json()["message"]


def test_every_named_behaviour_is_listed(simulator: SimulatorProcess, http: httpx.Client) -> None:
    assert set(http.get(simulator.base_url + "/control/behaviours").json()) == set(NAMED)


def post(body: dict[str, Any], *headers: str) -> bytes:
    content = json.dumps(body).encode()
    lines = [f"POST {BULK_PATH} HTTP/1.1", "Host: mitto", f"Content-Length: {len(content)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + content


def exchange(simulator: SimulatorProcess, data: bytes) -> tuple[bytes, bool]:
    """Send bytes; what came back, and whether the connection was reset."""
    host, _, port = simulator.address.rpartition(":")
    received = b""
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(data)
        try:
            while chunk := connection.recv(65536):
                received += chunk
        except ConnectionResetError:
            return received, True
    return received, False
