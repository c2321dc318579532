"""The simulator as an HTTP/1.1 server."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from devstack.mitto.process import SimulatorProcess
from devstack.mitto.wire import BULK_PATH, MESSAGES_PATH

pytestmark = pytest.mark.slow

Bulk = Callable[[int], dict[str, Any]]


@pytest.fixture
def connection(simulator: SimulatorProcess) -> Iterator[socket.socket]:
    host, _, port = simulator.address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        yield connection


def read_responses(connection: socket.socket, count: int) -> list[tuple[int, Any]]:
    """Read so many responses with a JSON body each."""
    responses: list[tuple[int, Any]] = []
    with connection.makefile("rb") as file:
        for _ in range(count):
            status = int(file.readline().split()[1])
            length = 0
            while (line := file.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            responses.append((status, json.loads(file.read(length) or b"null")))
    return responses


def head(*lines: str) -> bytes:
    return "\r\n".join([f"POST {BULK_PATH} HTTP/1.1", "Host: mitto", *lines]).encode() + b"\r\n\r\n"


def test_pipelined_requests_get_their_responses_in_order(connection: socket.socket, bulk: Bulk) -> None:
    requests = b""
    for count in range(1, 41):
        body = json.dumps(bulk(count)).encode()
        slow = 'X-Simulate: {"latency":{"constant_seconds":0.05}}' if count % 10 == 1 else "X-Other: 1"
        requests += head(f"Content-Length: {len(body)}", slow) + body
    connection.sendall(requests)
    responses = read_responses(connection, 40)
    assert [len(body["messages"]) for _, body in responses] == list(range(1, 41))


def test_a_chunked_body_sent_byte_by_byte_is_accepted(connection: socket.socket, bulk: Bulk) -> None:
    body = json.dumps(bulk(2)).encode()
    half = len(body) // 2
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:])) + b"0\r\n\r\n"
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for byte in head("Transfer-Encoding: chunked") + chunks:
        connection.send(bytes([byte]))
    ((status, response),) = read_responses(connection, 1)
    assert status == 200
    assert len(response["messages"]) == 2


def test_expect_100_continue_is_acknowledged(connection: socket.socket, bulk: Bulk) -> None:
    body = json.dumps(bulk(1)).encode()
    connection.sendall(head(f"Content-Length: {len(body)}", "Expect: 100-continue"))
    assert connection.recv(1024) == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(body)
    assert read_responses(connection, 1)[0][0] == 200


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"this is no HTTP\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nX-Long: " + b"x" * 200_000, 431),
        (head("Content-Length: 99999999999"), 413),
    ],
    ids=["no HTTP", "endless head", "endless body"],
)
def test_what_cannot_be_served_is_rejected_and_the_connection_closed(
    connection: socket.socket, data: bytes, status: int
) -> None:
    connection.sendall(data)
    assert read_responses(connection, 1)[0][0] == status
    with contextlib.suppress(ConnectionResetError):  # What was not read any more makes the kernel reset.
        assert connection.recv(1024) == b""


def test_keep_alive_is_kept_and_close_closes(simulator: SimulatorProcess, http: httpx.Client, bulk: Bulk) -> None:
    before = simulator.control.stats().connections_opened
    for _ in range(5):
        http.post(simulator.base_url + BULK_PATH, json=bulk(1))
    assert simulator.control.stats().connections_opened == before + 1
    response = http.post(simulator.base_url + BULK_PATH, json=bulk(1), headers={"X-Simulate": "close-connection"})
    assert response.headers["connection"] == "close"
    http.post(simulator.base_url + BULK_PATH, json=bulk(1))
    assert simulator.control.stats().connections_opened == before + 2


def test_http_1_0_gets_a_response_and_an_end(connection: socket.socket) -> None:
    connection.sendall(f"GET {MESSAGES_PATH}x HTTP/1.0\r\n\r\n".encode())
    received = b""
    while chunk := connection.recv(4096):
        received += chunk
    assert received.startswith(b"HTTP/1.1 404 ")


def test_requests_are_listed_with_time_account_and_outcome(
    simulator: SimulatorProcess, http: httpx.Client, bulk: Bulk
) -> None:
    for _ in range(3):
        http.post(simulator.base_url + BULK_PATH, json=bulk(4))
    http.get(simulator.base_url + MESSAGES_PATH + "x")
    entries = simulator.control.requests()
    assert [(entry.messages, entry.accepted, entry.status, entry.outcome) for entry in entries] == [
        *[(4, 4, 200, "responded")] * 3,
        (0, 0, 404, "responded"),
    ]
    assert [entry.number for entry in entries] == sorted(entry.number for entry in entries)
    page = http.get(simulator.base_url + f"/control/requests?after={entries[1].number}&limit=1").json()
    assert [entry["number"] for entry in page["requests"]] == [entries[2].number]
    (peak,) = simulator.control.peaks(window_ms=60_000)
    assert (peak.requests, peak.messages) == (3, 12)
    assert sum(second.requests for second in simulator.control.seconds()) == 3
    simulator.control.reset()
    assert simulator.control.requests() == []
    assert simulator.control.stats().accepted_messages == 0
    assert len(list(simulator.control.accepted())) == 12, "the log is never reset"


def test_an_unknown_control_path_lists_those_there_are(simulator: SimulatorProcess, http: httpx.Client) -> None:
    response = http.get(simulator.base_url + "/control/nothing")
    assert response.status_code == 404
    assert "GET /control/stats" in response.json()["message"]
