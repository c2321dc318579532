"""What happens to a crashed process under `up`: reported, started again, given up after too many times."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from devstack.processes import ManagedProcess, ProcessFailed
from devstack.stack import Stack, StackStoppedError

RESTARTS_PER_MINUTE = 5

_PAUSE_SECONDS = 1.0


class Supervisor:
    """Restarts what crashes in one stack; `given_up` is set when one process has crashed too often."""

    def __init__(
        self,
        report: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        pause_seconds: float = _PAUSE_SECONDS,
    ) -> None:
        self.given_up = threading.Event()
        self.stopping = threading.Event()
        """Set this before the stack is stopped."""
        self.stack: Stack | None = None
        self._report = report
        self._clock = clock
        self._pause_seconds = pause_seconds
        self._lock = threading.Lock()
        self._in_care: set[str] = set()
        self._restarts: dict[str, deque[float]] = {}

    def on_crash(self, process: ManagedProcess) -> None:
        """Take care of one crash; runs in the crashed process's own thread."""
        stack = self.stack
        if stack is None or not stack.ready:  # starting up reports its own failures
            return
        with self._lock:
            if process.name in self._in_care:  # it crashed again while being started; that is noticed below
                return
            self._in_care.add(process.name)
        self._report(f"✗ {process.crash_report()}")
        while self._start_again(stack, process):
            with self._lock:
                if process.running:
                    self._in_care.discard(process.name)
                    return

    def _start_again(self, stack: Stack, process: ManagedProcess) -> bool:
        """Try once, after a pause; return False when there is nothing more to do."""
        if self.stopping.wait(self._pause_seconds):
            return False
        if not self._may_restart(process.name):
            self._report(f"✗ {process.name} crashed more than {RESTARTS_PER_MINUTE} times in a minute: giving up")
            self.given_up.set()
            return False
        try:
            stack.start_again(process.name)
        except StackStoppedError:
            return False
        except ProcessFailed as failure:
            self._report(f"✗ {failure}")
        else:
            self._report(f"✓ {process.name} is running again (process id {process.pid})")
        return True

    def _may_restart(self, name: str) -> bool:
        times = self._restarts.setdefault(name, deque(maxlen=RESTARTS_PER_MINUTE))
        now = self._clock()
        if len(times) == RESTARTS_PER_MINUTE and now - times[0] < 60.0:
            return False
        times.append(now)
        return True
