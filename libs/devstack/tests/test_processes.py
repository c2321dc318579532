from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from devstack.eventually import eventually_blocking
from devstack.processes import ManagedProcess, ProcessFailed

pytestmark = pytest.mark.slow

COUNTER = """
import signal, sys, time
print("started", flush=True)
for number in range(1_000_000):
    print(number, flush=True)
    time.sleep(0.01)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)
"""
POLITE = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("bye", flush=True), sys.exit(0)))
print("ready", flush=True)
time.sleep(600)
"""
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print("child", child.pid, flush=True)
time.sleep(600)
"""

Make = Callable[..., ManagedProcess]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[ManagedProcess] = []

    def make_one(script: str, *, word: str = "ready", **options: object) -> ManagedProcess:
        log = tmp_path / "it.log"
        process = ManagedProcess(
            "it",
            [sys.executable, "-c", script],
            log_path=log,
            ready=lambda: log.exists() and word in log.read_text(),
            **options,  # type: ignore[arg-type]
        )
        made.append(process)
        return process

    yield make_one
    for process in made:
        process.kill()


def test_it_is_started_found_ready_and_stopped_politely(make: Make) -> None:
    process = make(POLITE)
    process.start()
    assert (process.running, process.returncode) == (True, None)
    process.stop()
    assert (process.running, process.returncode) == (False, 0)
    assert process.last_log_lines(1) == ["bye"]


def test_what_does_not_obey_is_killed_after_the_grace(make: Make) -> None:
    process = make(STUBBORN)
    process.start()
    process.stop(grace_seconds=0.1)
    assert process.returncode == -signal.SIGKILL


def test_an_end_before_readiness_is_an_error_with_the_exit_code_and_the_last_log_lines(make: Make) -> None:
    process = make("import sys; print('no database'); sys.exit(7)")
    with pytest.raises(ProcessFailed, match=r"it ended with exit code 7 before it was ready(?s:.*)no database"):
        process.start()


def test_a_start_that_takes_too_long_is_an_error(make: Make) -> None:
    process = make(COUNTER, word="never", ready_timeout_seconds=0.3)
    with pytest.raises(ProcessFailed, match=r"not ready within 0.3 s"):
        process.start()


def test_a_program_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    process = ManagedProcess("gone", [tmp_path / "nothing"], log_path=tmp_path / "log")
    process.spawn()
    assert process.wait(10) == 1
    with pytest.raises(ProcessFailed, match="FileNotFoundError"):
        process.wait_ready()


def test_it_can_be_paused_and_resumed(make: Make, tmp_path: Path) -> None:
    process = make(COUNTER, word="started")
    process.start()
    process.pause()
    eventually_blocking(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, 15)
    size = (tmp_path / "it.log").stat().st_size
    process.resume()
    eventually_blocking(lambda: (tmp_path / "it.log").stat().st_size > size, 15)


def test_a_paused_process_can_be_stopped(make: Make) -> None:
    process = make(POLITE)
    process.start()
    process.pause()
    process.stop()
    assert process.returncode == 0


def test_it_can_be_restarted_with_a_new_process_id(make: Make) -> None:
    process = make(POLITE)
    process.start()
    before = process.pid
    process.restart()
    assert process.running
    assert process.pid != before


def test_killing_takes_its_children_along_whatever_session_they_are_in(make: Make) -> None:
    process = make(PARENT, word="child")
    process.start()
    child = int(process.last_log_lines(1)[0].split()[1])
    process.kill()
    eventually_blocking(
        lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE, 15
    )


def test_only_an_end_nobody_asked_for_is_a_crash(make: Make) -> None:
    process = make(POLITE)
    crashed = threading.Event()
    process.on_crash = lambda _process: crashed.set()
    process.start()
    process.stop()
    process.start()
    process.kill()
    assert not crashed.is_set()
    process.start()
    assert process.pid
    os.kill(process.pid, signal.SIGKILL)
    assert crashed.wait(10)
    assert "ended with signal SIGKILL without being asked to" in str(process.crash_report())


def test_it_inherits_nothing_of_the_shell_that_could_change_what_it_does(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://elsewhere/")
    monkeypatch.setenv("HTTPS_PROXY", "http://elsewhere/")
    process = make("import os; print(sorted(os.environ), 'ready'); import time; time.sleep(60)")
    process.start()
    assert "DATABASE_URL" not in process.last_log_lines(1)[0]
    assert "HTTPS_PROXY" not in process.last_log_lines(1)[0]


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
@pytest.mark.parametrize("thread", ["in the main thread", "in a thread that has ended"])
def test_it_does_not_survive_the_kill_of_its_supervisor(thread: str, tmp_path: Path) -> None:
    script = f"""
import sys, threading, time
from pathlib import Path
from devstack.processes import ManagedProcess
log_path = Path({str(tmp_path / "log")!r})
process = ManagedProcess("it", [sys.executable, "-c", "import time; time.sleep(600)"], log_path=log_path)
def start():
    process.start()
if {thread!r} == "in the main thread":
    start()
else:
    starter = threading.Thread(target=start)
    starter.start()
    starter.join()
time.sleep(0.3)  # the end of that thread must not end the process
assert process.running
print(process.pid, flush=True)
time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout
        child = int(supervisor.stdout.readline())
        assert psutil.pid_exists(child)
        supervisor.kill()
    eventually_blocking(
        lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE, 15
    )
