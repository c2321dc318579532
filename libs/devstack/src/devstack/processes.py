"""One process of the stack: started, found ready, watched, stopped, killed, paused and started again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from devstack.accounts import Account, guarded, same_account
from devstack.process_run import ProcessRun, base_environment, describe_returncode

_LOG_TAIL_BYTES = 64 * 1024
_LOG_LIMIT_BYTES = 32 * 1024 * 1024
_POLL_SECONDS = 0.02


class ProcessFailed(Exception):  # noqa: N818 - what happened, not what kind of thing it is
    """A process ended, or was not ready, when it should have been running."""

    def __init__(self, name: str, what: str, log_path: Path, last_log_lines: Sequence[str]) -> None:
        self.name = name
        self.what = what
        self.log_path = log_path
        self.last_log_lines = tuple(last_log_lines)
        shown = "\n".join(f"  | {line}" for line in last_log_lines) or "  | (it logged nothing)"
        super().__init__(f"{name} {what}; last lines of {log_path}:\n{shown}")


class ManagedProcess:
    """A process in a session of its own that cannot outlive this one; it can be started again and again."""

    def __init__(
        self,
        name: str,
        command: Sequence[str | os.PathLike[str]],
        *,
        log_path: Path,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
        account: Account | None = None,
        ready: Callable[[], bool] | None = None,
        ready_timeout_seconds: float = 30.0,
        stop_signal: signal.Signals = signal.SIGTERM,
        death_signal: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.name = name
        self.log_path = log_path
        self.environment = dict(environment or {})
        self.on_start: Callable[[ManagedProcess], None] | None = None
        """Called in the starting thread once there is a new pid."""
        self.on_crash: Callable[[ManagedProcess], None] | None = None
        """Called in a thread of its own process's when it ended without being asked to."""
        self._command = list(command)
        self._folder = folder
        self._account = account or same_account()
        self._ready = ready
        self._ready_timeout_seconds = ready_timeout_seconds
        self._stop_signal = stop_signal
        self._death_signal = death_signal
        self._lock = threading.RLock()
        self._run: ProcessRun | None = None

    @property
    def pid(self) -> int | None:
        """The process id, kept after its end; None before the first start."""
        return self._run.pid if self._run else None

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._run is not None and not self._run.ended.is_set()

    @property
    def returncode(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs or before the first start."""
        return self._run.returncode if self._run else None

    def start(self) -> None:
        """Start it and wait until it is ready; raises ProcessFailed when it ends or takes too long."""
        self.spawn()
        self.wait_ready()

    def spawn(self) -> None:
        """Start it and return at once."""
        with self._lock:
            if self.running:
                raise RuntimeError(f"{self.name} is already running with process id {self.pid}")
            run = ProcessRun(self.name, self._death_signal, self._fork, self._note_unexpected_end)
            run.launch()
            self._run = run  # only now: whoever wants to signal it must find a pid
            if self.on_start:
                self.on_start(self)

    def wait_ready(self, timeout_seconds: float | None = None) -> None:
        """Wait until the readiness check passes."""
        limit = self._ready_timeout_seconds if timeout_seconds is None else timeout_seconds
        deadline = time.monotonic() + limit
        run = self._run
        if run is None:
            raise RuntimeError(f"{self.name} has not been started")
        while not run.ended.is_set():
            if self._ready is None or self._ready():
                return
            if time.monotonic() > deadline:
                raise self.failure(f"was not ready within {limit:g} s")
            run.ended.wait(_POLL_SECONDS)
        raise self.failure(f"ended with {describe_returncode(run.returncode)} before it was ready")

    def wait(self, timeout_seconds: float) -> int | None:
        """Wait for its end; return the exit code, or None if it still runs."""
        if self._run is not None:
            self._run.ended.wait(timeout_seconds)
        return self.returncode

    def stop(self, grace_seconds: float = 10.0) -> None:
        """Ask it to end, kill it after `grace_seconds`; nothing happens if it has ended."""
        with self._lock:
            run = self._run
            if run is None or run.ended.is_set():
                return
            run.end_expected = True
            self.send(self._stop_signal)
            self.send(signal.SIGCONT)  # a paused process could not obey
            if not run.ended.wait(grace_seconds):
                self.kill()

    def kill(self) -> None:
        """Kill it and its children at once (SIGKILL) and wait for its end."""
        run = self._run
        if run is None or run.ended.is_set():
            return
        run.end_expected = True
        for pid in [run.pid, *self._descendants()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not run.ended.wait(10.0):
            raise self.failure("did not end after SIGKILL")

    def pause(self) -> None:
        """Stop it in its tracks (SIGSTOP), children too."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `pause`."""
        self._signal_all(signal.SIGCONT)

    def restart(self, grace_seconds: float = 10.0) -> None:
        """Stop it if it runs, start it and wait until it is ready."""
        self.stop(grace_seconds)
        self.start()

    def send(self, number: signal.Signals) -> None:
        """Send one signal to the process itself; nothing happens if it has ended."""
        run = self._run
        if run is not None and not run.ended.is_set():
            with contextlib.suppress(ProcessLookupError):
                os.kill(run.pid, number)

    def last_log_lines(self, count: int = 20) -> list[str]:
        """Return the last lines it logged."""
        try:
            with self.log_path.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(0, size - _LOG_TAIL_BYTES))
                return log.read().decode("utf-8", "replace").splitlines()[-count:]
        except FileNotFoundError:
            return []

    def failure(self, what: str) -> ProcessFailed:
        """Return an error about this process that carries its last log lines."""
        return ProcessFailed(self.name, what, self.log_path, self.last_log_lines())

    def crash_report(self) -> ProcessFailed:
        """Return the error to show after an end nobody asked for."""
        return self.failure(f"ended with {describe_returncode(self.returncode)} without being asked to")

    def _fork(self) -> subprocess.Popen[bytes]:
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            if self.log_path.stat().st_size > _LOG_LIMIT_BYTES:
                self.log_path.replace(self.log_path.with_suffix(".previous"))
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                guarded(self._command, self._account, self._death_signal),
                cwd=self._folder or "/",
                env=base_environment() | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _note_unexpected_end(self) -> None:
        if self.on_crash is not None:
            self.on_crash(self)

    def _signal_all(self, number: signal.Signals) -> None:
        self.send(number)
        for pid in self._descendants():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _descendants(self) -> list[int]:
        """The pids below this process: a group is not enough, PostgreSQL gives each backend its own session."""
        try:
            return [child.pid for child in psutil.Process(self.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            return []
