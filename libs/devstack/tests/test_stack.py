from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from devstack.eventually import eventually_blocking
from devstack.health import is_serving
from devstack.processes import ManagedProcess, ProcessFailed
from devstack.services import Service
from devstack.sql import fetch
from devstack.stack import AlreadyRunningError, Stack, StackOptions, StackStoppedError
from devstack.state import ProcessRecord, end_processes, read_state
from devstack.supervision import RESTARTS_PER_MINUTE, Supervisor

pytestmark = pytest.mark.slow

TOYS = (Service("campaign", "toy_service"), Service("dispatcher", "toy_service", has_database=False))
WITH_TOYS = {"PYTHONPATH": str(Path(__file__).parent)}


def options(folder: Path, *, fault: str = "", **more: object) -> StackOptions:
    environment = {toy.name: WITH_TOYS for toy in TOYS}
    if fault:
        environment["campaign"] = WITH_TOYS | {"TOY_FAULT": fault}
    return StackOptions(
        folder / "stack",
        ephemeral=True,
        fsync=False,
        services=TOYS,
        environment=environment,
        database_url=None,
        redis_url=None,
        **more,  # type: ignore[arg-type]
    )


def crash(process: ManagedProcess) -> None:
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)


@pytest.fixture
def left_behind() -> Callable[[], set[psutil.Process]]:
    """The processes below this one that were not there when the test began: other tests' stacks may run."""

    def running() -> set[psutil.Process]:
        return {p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE}

    before = running()
    return lambda: running() - before


def test_everything_is_started_migrated_and_healthy_and_gone_afterwards(
    tmp_path: Path, left_behind: Callable[[], set[psutil.Process]]
) -> None:
    with Stack(options(tmp_path, replicas={"dispatcher": 2})) as stack:
        port = int(stack.address("campaign").rpartition(":")[2])
        assert is_serving(port)
        assert stack.address("dispatcher").startswith("ipv4:127.0.0.1:")
        assert stack.address("dispatcher").count(",127.0.0.1:") == 1
        assert fetch(stack.database_url("campaign"), "SELECT count(*) FROM migrated") == [(1,)]
        with urllib.request.urlopen(f"{stack.simulator.url}/control/health") as response:
            assert response.status == 200
        assert stack.client_environment == {
            "BULKSMS_CAMPAIGN": stack.address("campaign"),
            "BULKSMS_DISPATCHER": stack.address("dispatcher"),
        }
        state = read_state(stack.folder)
        assert state is not None
        assert state.ready
        assert {p.name for p in state.processes} == {
            "postgres", "valkey", "spans", "simulator", "campaign-0", "dispatcher-0", "dispatcher-1",
        }  # fmt: skip
        assert stat.S_IMODE((stack.folder / "state.json").stat().st_mode) == 0o600
    assert not left_behind()
    assert not stack.folder.exists()
    assert stack.crashes == []


def test_a_process_of_the_stack_can_be_killed_and_started_at_the_same_address(tmp_path: Path) -> None:
    with Stack(options(tmp_path, traces=False)) as stack:
        process = stack.process("campaign", 0)
        process.kill()
        assert not is_serving(int(stack.address("campaign").rpartition(":")[2]))
        process.start()
        assert is_serving(int(stack.address("campaign").rpartition(":")[2]))
        stack.check()


def test_a_crash_is_noticed_and_reported_with_the_last_log_lines(tmp_path: Path) -> None:
    noticed = threading.Event()
    with Stack(options(tmp_path, traces=False), lambda _process: noticed.set()) as stack:
        crash(stack.process("dispatcher"))
        assert noticed.wait(10)
        with pytest.raises(ProcessFailed, match=r"dispatcher-0 ended with signal SIGKILL(?s:.*)toy serves"):
            stack.check()


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        ("migration", r"migrate-campaign failed with exit code 1(?s:.*)a table it does not know"),
        ("start", r"campaign-0 ended with exit code 1 before it was ready(?s:.*)GRPC_LISTEN: no such interface"),
        ("sick", r"campaign-0 was not ready within 5 s(?s:.*)toy serves"),
    ],
)
def test_a_start_that_fails_says_why_and_leaves_nothing(
    fault: str,
    complaint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    left_behind: Callable[[], set[psutil.Process]],
) -> None:
    if fault == "sick":
        monkeypatch.setattr("devstack.plan._READY_TIMEOUT_SECONDS", 5.0)
    stack = Stack(options(tmp_path, fault=fault, traces=False))
    with pytest.raises(ProcessFailed, match=complaint):
        stack.start()
    assert not left_behind()
    assert not stack.folder.exists()


def test_a_stop_while_starting_leaves_nothing(tmp_path: Path, left_behind: Callable[[], set[psutil.Process]]) -> None:
    stack = Stack(options(tmp_path, fault="sick"))
    failures: list[BaseException] = []

    def start() -> None:
        try:
            stack.start()
        except (ProcessFailed, StackStoppedError) as failure:
            failures.append(failure)

    starter = threading.Thread(target=start)
    starter.start()
    eventually_blocking(lambda: "campaign-0" in stack.processes, 20)
    stack.stop()
    starter.join(30)
    assert failures
    assert not left_behind()


def test_a_second_stack_in_the_same_folder_is_refused_and_one_elsewhere_is_not(tmp_path: Path) -> None:
    with Stack(options(tmp_path / "one", traces=False)) as first:
        with pytest.raises(AlreadyRunningError, match=f"process id {os.getpid()}"):
            Stack(options(tmp_path / "one", traces=False)).start()
        with Stack(options(tmp_path / "two", traces=False)) as second:
            assert second.address("campaign") != first.address("campaign")
        first.check()


def test_a_service_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such service: dispacher"):
        Stack(options(tmp_path, replicas={"dispacher": 2}))


def test_a_crashed_process_is_started_again_until_it_has_crashed_too_often(tmp_path: Path) -> None:
    reports: list[str] = []
    supervisor = Supervisor(reports.append, pause_seconds=0.01)
    with Stack(options(tmp_path, traces=False), supervisor.on_crash) as stack:
        supervisor.stack = stack
        process = stack.process("dispatcher")
        for _ in range(RESTARTS_PER_MINUTE):
            pid, seen = process.pid, len(reports)
            crash(process)
            eventually_blocking(lambda seen=seen: any("running again" in report for report in reports[seen:]), 20)  # type: ignore[misc]
            assert process.running
            assert process.pid != pid
        crash(process)
        assert supervisor.given_up.wait(10)
        assert "giving up" in reports[-1]
        supervisor.stopping.set()


def test_postgres_is_started_again_too(tmp_path: Path) -> None:
    reports: list[str] = []
    supervisor = Supervisor(reports.append, pause_seconds=0.01)
    with Stack(options(tmp_path, traces=False), supervisor.on_crash) as stack:
        supervisor.stack = stack
        crash(stack.processes["postgres"])
        eventually_blocking(lambda: any("postgres is running again" in report for report in reports), 20)
        assert fetch(stack.database_url("campaign"), "SELECT count(*) FROM migrated") == [(1,)]
        supervisor.stopping.set()


def test_a_recorded_process_is_ended_and_one_that_only_has_its_pid_is_not(tmp_path: Path) -> None:
    process = ManagedProcess("it", [sys.executable, "-c", "import time; time.sleep(600)"], log_path=tmp_path / "log")
    process.start()
    assert process.pid
    record = ProcessRecord.of("it", process.pid)
    somebody_else = ProcessRecord("it", record.pid, "another-boot:1")
    assert end_processes([somebody_else]) == []
    assert process.running
    assert end_processes([record]) == [record]
    assert process.wait(10) == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_nothing_survives_the_kill_of_the_process_that_holds_the_stack(tmp_path: Path) -> None:
    script = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from devstack.services import Service
from devstack.stack import Stack, StackOptions
import json
toys = (Service("campaign", "toy_service"),)
stack = Stack(StackOptions(Path({str(tmp_path)!r}) / "stack", fsync=False, services=toys, database_url=None,
    redis_url=None, environment={{"campaign": {{"PYTHONPATH": {str(Path(__file__).parent)!r}}}}}))
stack.start()
print(json.dumps([p.pid for p in stack.processes.values() if p.running]), flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as holder:
        assert holder.stdout
        pids = [int(pid) for pid in holder.stdout.readline().strip(b"[]\n").split(b",")]
        everything = [psutil.Process(pid) for pid in pids]
        everything += [child for process in everything for child in process.children(recursive=True)]
        holder.kill()
    psutil.wait_procs(everything, timeout=15)
    assert [p for p in everything if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    with Stack(options(tmp_path, traces=False)) as stack:  # and the next one starts over the same data
        assert fetch(stack.database_url("campaign"), "SELECT count(*) FROM migrated") == [(2,)]
