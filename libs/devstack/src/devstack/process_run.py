"""One run of a process, from fork to exit code, and the end of all runs with this process."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from concurrent.futures import Future

# What a process inherits. A list of what is let through, so that a proxy, a DATABASE_URL or an OTEL_ variable of the
# shell can never change what a stack does.
_INHERITED = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "VIRTUAL_ENV",
    "LD_LIBRARY_PATH",
    "COVERAGE_PROCESS_START",
)


class ProcessRun:
    """A child and the thread that belongs to it: it forks, then waits for the end.

    The kernel sends the parent-death signal when the *thread* that forked ends, so that thread must live as long as
    the child.
    """

    def __init__(
        self,
        name: str,
        death_signal: signal.Signals,
        fork: Callable[[], subprocess.Popen[bytes]],
        at_unexpected_end: Callable[[], None],
    ) -> None:
        self.pid = 0
        self.returncode: int | None = None
        self.end_expected = False
        self.death_signal = death_signal
        self.ended = threading.Event()
        self._name = name
        self._fork = fork
        self._at_unexpected_end = at_unexpected_end
        self._forked: Future[int] = Future()

    def launch(self) -> None:
        """Fork and return; raises what the fork raised."""
        _end_with_this_process()
        threading.Thread(target=self._live, name=f"process-{self._name}", daemon=True).start()
        self.pid = self._forked.result()

    def _live(self) -> None:
        try:
            child = self._fork()
        except BaseException as error:  # noqa: BLE001 - handed to the thread that asked
            self._forked.set_exception(error)
            return
        self.pid = child.pid
        _running.add(self)
        self._forked.set_result(child.pid)
        self.returncode = child.wait()
        self.ended.set()
        _running.discard(self)
        if not self.end_expected:
            self._at_unexpected_end()


def base_environment() -> dict[str, str]:
    """Return the part of this process's environment that the stack's processes inherit."""
    return {name: os.environ[name] for name in _INHERITED if name in os.environ} | {"PYTHONUNBUFFERED": "1"}


def describe_returncode(returncode: int | None) -> str:
    """Return an exit code in words."""
    if returncode is not None and returncode < 0:
        return f"signal {signal.Signals(-returncode).name}"
    return f"exit code {returncode}"


# Runs that have not ended, for _end_with_this_process.
_running: set[ProcessRun] = set()


@functools.cache
def _end_with_this_process() -> None:
    """Have whatever still runs killed at exit; registered once, with the first process.

    Linux does this by the parent-death signal. Elsewhere (macOS) this is what keeps a finished program from leaving
    any.
    """
    atexit.register(_kill_what_still_runs)


def _kill_what_still_runs() -> None:
    for run in list(_running):
        with contextlib.suppress(ProcessLookupError):
            os.kill(run.pid, run.death_signal)
