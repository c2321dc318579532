"""What other commands know of a stack that runs: a file with its processes, addresses and secrets."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import psutil

from devstack.identity import write_private


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """A process and when it started: a pid alone may have gone to somebody else."""

    name: str
    pid: int
    started: str

    @classmethod
    def of(cls, name: str, pid: int) -> ProcessRecord:
        """Return the record of a process that runs now."""
        return cls(name, pid, _start_of(pid) or "")

    @property
    def running(self) -> bool:
        """Whether this very process still runs."""
        return bool(self.started) and _start_of(self.pid) == self.started


@dataclass(slots=True)
class StackState:
    """The content of `state.json`."""

    supervisor: ProcessRecord
    processes: list[ProcessRecord] = field(default_factory=list)
    addresses: dict[str, str] = field(default_factory=dict)
    """What listens where, for people."""
    environment: dict[str, str] = field(default_factory=dict)
    """What the `bulksms` command and other clients are to be given."""
    database_urls: dict[str, str] = field(default_factory=dict)
    redis_url: str = ""
    dlr_secret: str = ""
    simulator_api_key: str = ""
    simulator_log: str = ""
    trace_store: str = ""
    ready: bool = False


def state_path(folder: Path) -> Path:
    """Return where the state of the stack in `folder` is."""
    return folder / "state.json"


def write_state(folder: Path, state: StackState) -> None:
    """Write the state, readable by its owner only."""
    write_private(state_path(folder), msgspec.json.format(msgspec.json.encode(state), indent=1).decode())


def read_state(folder: Path) -> StackState | None:
    """Return the state of the stack in `folder`, whether it runs or not; None when there is none."""
    try:
        return msgspec.json.decode(state_path(folder).read_bytes(), type=StackState)
    except FileNotFoundError:
        return None


def remove_state(folder: Path) -> None:
    """Forget the stack in `folder`."""
    state_path(folder).unlink(missing_ok=True)


def end_processes(records: Iterable[ProcessRecord], timeout_seconds: float = 10.0) -> list[ProcessRecord]:
    """Kill those recorded processes that still run, and their children; return them.

    For what a killed supervisor left. The parent-death signal makes this rare; a system without one makes it needed.
    """
    ended: list[ProcessRecord] = []
    victims: list[psutil.Process] = []
    for record in records:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(record.pid)
            if record.running:
                victims += [process, *process.children(recursive=True)]
                ended.append(record)
    for victim in victims:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()  # psutil checks the start time before it sends
    deadline = time.monotonic() + timeout_seconds
    while any(map(_lives, victims)) and time.monotonic() < deadline:
        time.sleep(0.02)  # not psutil's wait: it would take the exit code from whoever is the parent
    return ended


class FolderLock:
    """Sees to it that one stack at a time uses a folder; the kernel drops the lock with the process."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "lock"
        self._descriptor: int | None = None

    def is_there(self) -> bool:
        """Whether anybody has ever taken it."""
        return self._path.exists()

    def acquire(self, timeout_seconds: float = 0.0) -> bool:
        """Take the lock; return False when another process has it until the end of the timeout."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + timeout_seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    os.close(descriptor)
                    return False
                time.sleep(0.05)
            else:
                self._descriptor = descriptor
                return True

    @property
    def acquired(self) -> bool:
        """Whether this object has the lock."""
        return self._descriptor is not None

    def release(self) -> None:
        """Give the lock back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _start_of(pid: int) -> str | None:
    """Return when the process with this pid started, in a form that only equals itself; None if there is none."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        # The kernel's own figure (ticks since boot) does not move with the clock, as create_time() may.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}:{fields[19]}"
    except (psutil.NoSuchProcess, ProcessLookupError):
        return None
    except OSError:
        return str(process.create_time()) if psutil.pid_exists(pid) else None
