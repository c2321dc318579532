"""The accepted log is the truth: nothing responded to is missing from it, whatever happens to the simulator."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from devstack.mitto.accepted_log import DamagedLogError, count_duplicates, read_accepted, read_records
from devstack.mitto.process import SimulatorProcess, SimulatorStartError
from devstack.mitto.wire import BULK_PATH, MESSAGES_PATH

pytestmark = pytest.mark.slow

Bulk = Callable[[int], dict[str, Any]]


def test_everything_responded_to_is_in_the_log_after_a_kill_under_load(simulator: SimulatorProcess, bulk: Bulk) -> None:
    acknowledged: list[str] = []
    enough = threading.Event()

    def load() -> None:
        body = bulk(200)
        with httpx.Client(trust_env=False, timeout=10) as client:
            while True:
                try:
                    items = client.post(simulator.base_url + BULK_PATH, json=body).json()["messages"]
                except httpx.TransportError:
                    return
                acknowledged.extend(item["messageId"] for item in items)
                if len(acknowledged) > 20_000:
                    enough.set()

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert enough.wait(60)
    simulator.kill()
    for thread in threads:
        thread.join()
    logged = [message.message_id for message in read_accepted(simulator.log_path)]
    assert len(set(logged)) == len(logged)
    assert set(acknowledged) <= set(logged)
    assert len(logged) - len(acknowledged) <= 4 * 200, "at most what was under way on each connection"

    simulator.start()
    with httpx.Client(trust_env=False) as client:
        view = client.get(simulator.base_url + MESSAGES_PATH + acknowledged[0])
        assert view.json()["messageId"] == acknowledged[0]
        client.post(simulator.base_url + BULK_PATH, json=bulk(1))
    *earlier, last = read_accepted(simulator.log_path)
    assert len(earlier) == len(logged)
    assert last.request > earlier[-1].request


def test_the_log_can_be_read_while_it_grows(simulator: SimulatorProcess, http: httpx.Client, bulk: Bulk) -> None:
    for round_number in range(1, 6):
        http.post(simulator.base_url + BULK_PATH, json=bulk(100))
        assert sum(1 for _ in simulator.control.accepted()) == 100 * round_number


def test_the_log_can_be_read_from_a_moment_on(simulator: SimulatorProcess, http: httpx.Client, bulk: Bulk) -> None:
    http.post(simulator.base_url + BULK_PATH, json=bulk(3))
    moment = simulator.control.stats().log_bytes
    assert list(simulator.control.accepted(moment)) == []
    http.post(simulator.base_url + BULK_PATH, json=bulk(2))
    assert list(simulator.control.accepted(moment)) == list(simulator.control.accepted())[3:]


def test_a_torn_last_record_is_ignored_wherever_it_is_torn_and_cut_off_at_the_next_start(
    simulator: SimulatorProcess, http: httpx.Client, bulk: Bulk
) -> None:
    for count in (3, 2):
        http.post(simulator.base_url + BULK_PATH, json=bulk(count))
    simulator.stop()
    whole = simulator.log_path.read_bytes()
    first = next(read_records(simulator.log_path)).end
    for length in range(first, len(whole)):
        simulator.log_path.write_bytes(whole[:length])
        assert sum(1 for _ in read_accepted(simulator.log_path)) == 3
    simulator.start()
    assert simulator.log_path.stat().st_size == first
    http.post(simulator.base_url + BULK_PATH, json=bulk(4))
    assert sum(1 for _ in simulator.control.accepted()) == 7


def test_damage_in_the_middle_is_not_taken_for_a_crash(
    simulator: SimulatorProcess, http: httpx.Client, bulk: Bulk
) -> None:
    for _ in range(2):
        http.post(simulator.base_url + BULK_PATH, json=bulk(3))
    simulator.stop()
    data = bytearray(simulator.log_path.read_bytes())
    data[next(read_records(simulator.log_path)).offset + 5] ^= 1
    simulator.log_path.write_bytes(data)
    with pytest.raises(DamagedLogError, match="checksum"):
        list(read_accepted(simulator.log_path))
    with pytest.raises(SimulatorStartError, match="checksum"):
        simulator.start()


def test_the_log_is_nobody_elses_to_read(simulator: SimulatorProcess) -> None:
    assert simulator.log_path.stat().st_mode & 0o777 == 0o600


def test_an_empty_log_has_no_duplicates(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch()
    assert count_duplicates(path).messages == 0


def test_bad_settings_are_named(tmp_path: Path) -> None:
    process = SimulatorProcess(tmp_path, report_url="nonsense")
    with pytest.raises(SimulatorStartError, match="SIMULATOR_REPORT_URL"):
        process.start()


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = SimulatorProcess(tmp_path)
        process._port = taken.getsockname()[1]
        with pytest.raises(SimulatorStartError, match="cannot start"):
            process.start()


def test_sigterm_ends_it_with_zero(tmp_path: Path) -> None:
    process = SimulatorProcess(tmp_path)
    process.start()
    assert process.stop() == 0
    assert process.errors() == ""
