"""The `bulksms-devstack` command: the suite on this machine, up and down, its logs and its traces."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import psutil
import typer
from rich.console import Console
from rich.table import Table

from devstack.postgres_installation import PostgresUnavailableError
from devstack.processes import ProcessFailed
from devstack.servers import ServerUnusableError
from devstack.span_store import SpanReader
from devstack.stack import AlreadyRunningError, Stack, StackOptions, delete_stack_data
from devstack.state import StackState, end_processes, read_state, remove_state
from devstack.supervision import Supervisor
from devstack.temporary import remove_abandoned_folders
from devstack.tracetree import read_trace
from devstack.traceview import duration, render
from devstack.valkey import ValkeyUnavailableError

_DETACHED_START_SECONDS = 180.0
_STOP_SECONDS = 60.0

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
Folder = Annotated[Path, typer.Option(help="Where the stack keeps its data, logs and state.", envvar="DEVSTACK_FOLDER")]
_DEFAULT_FOLDER = Path(".devstack")

out = Console(highlight=False, soft_wrap=True)
err = Console(highlight=False, soft_wrap=True, stderr=True)


class _StopRequested(BaseException):
    """A signal asked for the end while the stack was starting."""


@app.command()
def up(
    *,
    folder: Folder = _DEFAULT_FOLDER,
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Go on in the background; stop it with `down`.")
    ] = False,
    replicas: Annotated[list[str] | None, typer.Option(help="Processes of a service, as dispatcher=3.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="A service's variable, as dispatcher.SMS_BATCH_SIZE=500.")
    ] = None,
    fsync: Annotated[bool, typer.Option(help="Whether PostgreSQL's data survives a crash of the machine.")] = True,
) -> None:
    """Start everything, print the addresses, and stay until Ctrl-C or `down`."""
    options = StackOptions(
        folder=folder, fsync=fsync, replicas=_parse_replicas(replicas or []), environment=_parse_settings(setting or [])
    )
    state = read_state(folder)
    if state is not None and state.supervisor.running:
        out.print(f"Already running (process id {state.supervisor.pid}).")
        _print_state(state)
        return
    if state is not None:
        end_processes(state.processes)
        remove_state(folder)
    if detach:
        _detach(folder)
    else:
        _run(options)


@app.command()
def down(
    *,
    folder: Folder = _DEFAULT_FOLDER,
    delete_data: Annotated[bool, typer.Option(help="Delete the folder too: databases, logs, traces.")] = False,
) -> None:
    """Stop the stack of this folder, also from another shell; clean up after one that was killed."""
    state = read_state(folder)
    if state is None:
        out.print("Nothing runs here.")
    else:
        _stop(folder, state)
    remove_abandoned_folders()
    if delete_data:
        delete_stack_data(folder)
        out.print("Data deleted.")


def _stop(folder: Path, state: StackState) -> None:
    if state.supervisor.running:
        os.kill(state.supervisor.pid, signal.SIGTERM)
        if not _ended(state, _STOP_SECONDS):
            err.print(f"The supervisor did not end within {_STOP_SECONDS:g} s: killing it.")
            end_processes([state.supervisor])
        state = read_state(folder) or state
    left = end_processes(state.processes)
    remove_state(folder)
    out.print(f"Stopped; killed what was left: {', '.join(r.name for r in left)}." if left else "Stopped.")


@app.command()
def status(folder: Folder = _DEFAULT_FOLDER) -> None:
    """Say what runs; exit code 3 when the stack does not."""
    state = read_state(folder)
    if state is None or not state.supervisor.running:
        out.print("Not running.")
        raise typer.Exit(3)
    _print_state(state)
    table = Table("process", "process id", "state", "memory", box=None)
    for record in state.processes:
        memory = f"{psutil.Process(record.pid).memory_info().rss / 2**20:.0f} MiB" if record.running else ""
        table.add_row(record.name, str(record.pid), "running" if record.running else "[red]ended[/]", memory)
    out.print(table)


@app.command()
def logs(
    service: Annotated[
        str | None, typer.Argument(help="A process (dispatcher-0) or service; all when not given.")
    ] = None,
    *,
    folder: Folder = _DEFAULT_FOLDER,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1)] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what is logged from now on.")] = False,
) -> None:
    """Print what the processes have logged."""
    paths = [
        *sorted((folder / "logs").glob("*.log")),
        *sorted(folder.glob("*/postgres.log")),
        *folder.glob("valkey/*.log"),
    ]
    names = {path.stem for path in paths}
    chosen = [p for p in paths if service is None or p.stem == service or p.stem.rpartition("-")[0] == service]
    if not chosen:
        _fail(f"no log of {service!r} here; there are: {', '.join(sorted(names)) or 'none yet'}", 4)
    command = ["tail", "-n", str(lines), *(["-F"] if follow else []), *map(str, chosen)]
    raise typer.Exit(subprocess.run(command, check=False).returncode)


@app.command()
def trace(
    trace_id: Annotated[str | None, typer.Argument(help="32 hexadecimal digits, or its first ones.")] = None,
    campaign: Annotated[str | None, typer.Option(help="The trace that enqueued this campaign.")] = None,
    folder: Folder = _DEFAULT_FOLDER,
) -> None:
    """Print a trace as a tree across all services; without arguments, the newest traces."""
    try:
        store = SpanReader(folder / "spans" / "spans.sqlite3")
    except FileNotFoundError as error:
        _fail(str(error), 4)
    if campaign is not None:
        mentioning = store.traces_mentioning(campaign)
        if not mentioning:
            _fail(f"no trace mentions campaign {campaign}; spans arrive about a second after they end", 4)
        out.print(render(read_trace(store, mentioning[0][0])))
    elif trace_id is not None:
        out.print(render(read_trace(store, _whole_trace_id(store, trace_id))))
    else:
        table = Table("trace", "service", "root", "began", "duration", box=None)
        for found, service, name, start_ns, milliseconds in store.newest_traces(20):
            began = time.strftime("%H:%M:%S", time.localtime(start_ns / 1e9))
            table.add_row(found.hex(), service, name, began, duration(milliseconds))
        out.print(table)


def main() -> None:
    """Run the command."""
    try:
        app()
    except PermissionError as error:  # a stack that root, or somebody else, has started in this folder
        err.print(f"{error}: go on as the user whose stack it is", markup=False)
        sys.exit(1)


def _run(options: StackOptions) -> None:
    """Start the stack and look after it until it is asked to stop or has to."""
    supervisor = Supervisor(lambda text: err.print(text, markup=False))
    try:
        stack = supervisor.stack = Stack(options, supervisor.on_crash)
    except ValueError as error:
        _fail(str(error), 2)
    requests = 0

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal requests
        requests += 1
        if requests == 1:
            raise _StopRequested
        if requests > 2:  # the second is impatience, the third an order
            stack.kill()

    began = time.monotonic()
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, on_signal)
        stack.start()
        out.print(f"Up in {time.monotonic() - began:.1f} s.")
        _print_state(read_state(stack.folder))
        out.print("Ctrl-C or [bold]make down[/] stops it.")
        supervisor.given_up.wait()
    except _StopRequested:
        out.print("Stopping …")
    except AlreadyRunningError as already:
        out.print(str(already))
        return
    except (ProcessFailed, PostgresUnavailableError, ValkeyUnavailableError, ServerUnusableError) as failure:
        _fail(str(failure), 1)
    finally:
        requests = max(requests, 1)  # from here on a signal must not break the way down
        supervisor.stopping.set()
        stack.stop()
    if supervisor.given_up.is_set():
        _fail("Stopped: a process could not be kept running.", 1)


def _detach(folder: Path) -> None:
    """Run `up` again in a session of its own, and wait until its stack is ready."""
    log_path = folder / "logs" / "up.log"
    log_path.parent.mkdir(parents=True, exist_ok=True)
    arguments = [argument for argument in sys.argv[1:] if argument not in ("--detach", "-d")]
    with log_path.open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "devstack.cli", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + _DETACHED_START_SECONDS
    while child.poll() is None and time.monotonic() < deadline:
        state = read_state(folder)
        if state is not None and state.ready and state.supervisor.pid == child.pid:
            child.returncode = 0  # it goes on without us
            _print_state(state)
            out.print(f"It goes on in the background (log: {log_path}); [bold]make down[/] stops it.")
            return
        time.sleep(0.05)
    child.terminate()
    child.wait(_STOP_SECONDS)
    _fail(log_path.read_text().rstrip() or "the stack did not start", 1)


def _ended(state: StackState, timeout_seconds: float) -> bool:
    deadline = time.monotonic() + timeout_seconds
    while state.supervisor.running:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _print_state(state: StackState | None) -> None:
    if state is None:
        return
    table = Table("what", "where", box=None)
    for name, address in state.addresses.items():
        table.add_row(name, address)
    out.print(table)
    if not state.ready:
        out.print("It is still starting.")
    out.print("For the [bold]bulksms[/] command, in this shell:")
    for name, value in state.environment.items():
        out.print(f"  export {name}={shlex.quote(value)}", markup=False)
    out.print("  export BULKSMS_TENANT=demo-shop  # or any other name", markup=False)
    programs = Path(sys.executable).parent
    if shutil.which("bulksms") is None and (programs / "bulksms").exists():
        out.print(f"  export PATH={shlex.quote(str(programs))}:$PATH", markup=False)


def _whole_trace_id(store: SpanReader, text: str) -> bytes:
    if len(text) == 32:
        try:
            return bytes.fromhex(text)
        except ValueError:
            _fail(f"{text!r} is no trace id: 32 hexadecimal digits are expected", 2)
    found = {trace_id for trace_id, *_ in store.newest_traces(10_000) if trace_id.hex().startswith(text.lower())}
    if len(found) != 1:
        _fail(f"{len(found)} traces begin with {text!r}; give more digits, or none for a list", 4)
    return found.pop()


def _parse_replicas(texts: list[str]) -> dict[str, int]:
    replicas = {}
    for text in texts:
        service, _, count = text.partition("=")
        if not count.isdecimal():
            raise typer.BadParameter(f"{text!r}: a service and a number are expected, as dispatcher=3")
        replicas[service] = int(count)
    return replicas


def _parse_settings(texts: list[str]) -> Mapping[str, Mapping[str, str]]:
    environment: dict[str, dict[str, str]] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        service, dot, variable = name.partition(".")
        if not (equals and dot and variable):
            raise typer.BadParameter(f"{text!r}: expected as dispatcher.SMS_BATCH_SIZE=500")
        environment.setdefault(service, {})[variable] = value
    return environment


def _fail(text: str, code: int) -> NoReturn:
    err.print(text, markup=False)
    raise typer.Exit(code)


if __name__ == "__main__":
    main()
