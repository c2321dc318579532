"""The command, run as a user runs it; the services are left out, the servers are real."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from devstack.eventually import eventually_blocking
from devstack.span_store import Span, SpanKey, SpanWriter
from devstack.sql import execute, fetch
from devstack.state import StackState, read_state
from devstack.temporary import temporary_folder

pytestmark = pytest.mark.slow

NO_SERVICES = [f"--replicas={name}=0" for name in ("ledger", "campaign", "dispatcher", "dlr-gateway")]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "devstack.cli", *arguments]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "REDIS_URL")}
    return subprocess.run(
        command(*arguments), cwd=folder, env=environment, capture_output=True, text=True, timeout=90, check=False
    )


def state_of(folder: Path) -> StackState:
    state = read_state(folder / ".devstack")
    assert state is not None
    return state


def none_left(state: StackState) -> bool:
    return not any(record.running for record in [state.supervisor, *state.processes])


@pytest.fixture
def foreground(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """`up` in the foreground, ready."""
    environment = {k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "REDIS_URL")}
    with subprocess.Popen(
        command("up", *NO_SERVICES),
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout
        printed = ""
        while "make down stops it" not in printed:
            line = process.stdout.readline()
            assert line, f"it ended: {printed}"
            printed += line
        assert state_of(tmp_path).ready
        assert "simulator" in printed
        yield process
        if process.poll() is None:
            process.kill()
    run(tmp_path, "down", "--delete-data")


def test_ctrl_c_stops_everything_and_keeps_the_data(foreground: subprocess.Popen[str], tmp_path: Path) -> None:
    state = state_of(tmp_path)
    foreground.send_signal(signal.SIGINT)
    output, _ = foreground.communicate(timeout=30)
    assert foreground.returncode == 0
    assert "Stopping" in output
    assert none_left(state)
    assert not (tmp_path / ".devstack" / "state.json").exists()
    assert (tmp_path / ".devstack" / "identity.json").exists()


def test_a_second_up_says_that_it_runs_already_and_down_stops_it_from_outside(
    foreground: subprocess.Popen[str], tmp_path: Path
) -> None:
    state = state_of(tmp_path)
    second = run(tmp_path, "up", *NO_SERVICES)
    assert second.returncode == 0
    assert f"Already running (process id {foreground.pid})" in second.stdout
    assert state.addresses["simulator"] in second.stdout
    assert "running" in run(tmp_path, "status").stdout
    assert run(tmp_path, "down").stdout == "Stopped.\n"
    foreground.communicate(timeout=30)
    assert foreground.returncode == 0
    assert none_left(state)
    assert run(tmp_path, "status").returncode == 3
    assert run(tmp_path, "down").stdout == "Nothing runs here.\n"


def test_a_crash_is_reported_and_the_process_started_again(foreground: subprocess.Popen[str], tmp_path: Path) -> None:
    before = next(record for record in state_of(tmp_path).processes if record.name == "simulator")
    os.kill(before.pid, signal.SIGKILL)
    eventually_blocking(
        lambda: any(r.name == "simulator" and r.pid != before.pid and r.running for r in state_of(tmp_path).processes),
        60,
    )
    assert foreground.stdout
    seen = ""
    while "running again" not in seen:
        seen += foreground.stdout.readline()
    assert "simulator ended with signal SIGKILL without being asked to" in seen
    assert "the Mitto simulator listens" in seen
    foreground.send_signal(signal.SIGTERM)
    foreground.communicate(timeout=30)
    assert foreground.returncode == 0


def test_after_a_kill_of_the_supervisor_nothing_runs_and_up_works_again(
    foreground: subprocess.Popen[str], tmp_path: Path
) -> None:
    state = state_of(tmp_path)
    everything = [psutil.Process(record.pid) for record in state.processes]
    everything += [child for process in everything for child in process.children(recursive=True)]
    foreground.kill()
    foreground.communicate()
    if sys.platform == "linux":
        psutil.wait_procs(everything, timeout=15)
        assert none_left(state)
    detached = run(tmp_path, "up", "--detach", *NO_SERVICES)
    assert detached.returncode == 0, detached.stderr
    assert "in the background" in detached.stdout
    assert run(tmp_path, "down").stdout == "Stopped.\n"
    assert none_left(state)


def database_url(folder: Path) -> str:
    postgres = folder / ".devstack" / "postgres"
    port = (postgres / "data" / "postmaster.pid").read_text().splitlines()[3]
    return f"postgresql://postgres:{(postgres / 'password').read_text()}@127.0.0.1:{port}/postgres"


def ctrl_c(folder: Path) -> None:
    os.kill(state_of(folder).supervisor.pid, signal.SIGINT)


def down(folder: Path) -> None:
    assert run(folder, "down").stdout == "Stopped.\n"


def kill_the_supervisor(folder: Path) -> None:
    os.kill(state_of(folder).supervisor.pid, signal.SIGKILL)


def kill_everything_and_go_down(folder: Path) -> None:
    state = state_of(folder)
    for record in (state.supervisor, *state.processes):
        os.kill(record.pid, signal.SIGKILL)
    assert run(folder, "down").stdout.startswith("Stopped")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("place", ["below a folder closed to others", "below a folder open to all"])
def test_the_data_is_there_after_every_kind_of_stop_and_nothing_is_left_elsewhere(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with temporary_folder("checkout") as parent, temporary_folder("temporary") as temporary:
        parent.chmod(0o700 if "closed" in place else 0o755)
        before = set(temporary.iterdir())
        monkeypatch.setenv("TMPDIR", str(temporary))
        folder = parent / "checkout"
        folder.mkdir()
        for starts, stop in enumerate((down, kill_the_supervisor, kill_everything_and_go_down, ctrl_c, down)):
            started = run(folder, "up", "--detach", *NO_SERVICES)
            assert started.returncode == 0, started.stderr
            url = database_url(folder)
            execute(url, ["CREATE TABLE IF NOT EXISTS starts (number int)"])
            assert fetch(url, "SELECT count(*) FROM starts") == [(starts,)], "after the stop before this start"
            execute(url, [f"INSERT INTO starts VALUES ({starts})"])
            state = state_of(folder)
            stop(folder)
            eventually_blocking(lambda state=state: none_left(state), 60)  # type: ignore[misc]
        assert set(temporary.iterdir()) == before
        assert "Data deleted." in run(folder, "down", "--delete-data").stdout
        assert list(folder.iterdir()) == []


def test_down_removes_the_temporary_folders_of_killed_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    script = "import os, devstack.temporary as t\nwith t.temporary_folder('killed'): os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", script], check=False)
    assert [path.name.rpartition("-")[0] for path in temporary.iterdir()] == ["bulksms-killed"]
    assert run(tmp_path, "down").stdout == "Nothing runs here.\n"
    assert list(temporary.iterdir()) == []


def test_ctrl_c_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    with subprocess.Popen(
        command("up", *NO_SERVICES), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        eventually_blocking((tmp_path / ".devstack" / "lock").exists, 60)
        me = psutil.Process(process.pid)
        eventually_blocking(lambda: bool(me.children()), 60)
        children = me.children(recursive=True)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "Stopping" in output
    psutil.wait_procs(children, timeout=5)
    assert not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
    assert not (tmp_path / ".devstack" / "state.json").exists()
    assert "Data deleted." in run(tmp_path, "down", "--delete-data").stdout
    assert not (tmp_path / ".devstack").exists()


def test_logs_and_traces_of_a_stack_can_be_read_while_it_is_down(tmp_path: Path) -> None:
    logs = tmp_path / ".devstack" / "logs"
    logs.mkdir(parents=True)
    (logs / "dispatcher-0.log").write_text("one\ntwo\n")
    assert run(tmp_path, "logs", "dispatcher", "-n", "1").stdout.endswith("two\n")
    missing = run(tmp_path, "logs", "ledger")
    assert missing.returncode == 4
    assert "there are: dispatcher-0" in missing.stderr
    assert run(tmp_path, "trace").returncode == 4
    writer = SpanWriter(tmp_path / ".devstack" / "spans" / "spans.sqlite3")
    root = Span(
        SpanKey(b"a" * 16, b"b" * 8),
        b"",
        "campaign",
        "EnqueueCampaign",
        2,
        0,
        5_000_000,
        attributes={"campaign": "c-7"},
    )
    writer.append([root])
    writer.close()
    assert "EnqueueCampaign" in run(tmp_path, "trace").stdout
    for arguments in (["61616161"], ["61" * 16], ["--campaign", "c-7"]):
        assert "campaign EnqueueCampaign  5.0 ms" in run(tmp_path, "trace", *arguments).stdout
    assert run(tmp_path, "trace", "--campaign", "c-8").returncode == 4


@pytest.mark.parametrize("wrong", ["--replicas=dispatcher", "--replicas=dispacher=2", "--set=SMS_BATCH_SIZE=5"])
def test_a_wrong_option_is_refused_before_anything_starts(wrong: str, tmp_path: Path) -> None:
    refused = run(tmp_path, "up", wrong)
    assert refused.returncode == 2
    assert not (tmp_path / ".devstack").exists()
