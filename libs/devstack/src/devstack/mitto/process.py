"""A simulator as a child process, for tests and benchmarks that want one of their own."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from devstack.mitto.client import Simulator
from devstack.ports import LOOPBACK, choose_port, release_port

START_SECONDS = 20.0
STOP_SECONDS = 10.0


class SimulatorStartError(Exception):
    """The simulator did not come up; the text has what it wrote."""


class SimulatorProcess:
    """Runs `python -m devstack.mitto` on a free port, with its log in a folder.

    The port and the log stay the same over `kill` and `start`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        report_url: str = "",
        report_headers: dict[str, str] | None = None,
        api_key: str = "",
        seed: int = 0,
    ) -> None:
        self.log_path = folder / "accepted.log"
        self._errors = folder / "simulator.err"
        self._port = choose_port()  # which no client of this machine is given while connections to it are refused
        self._environment = {
            "SIMULATOR_LOG": str(self.log_path),
            "SIMULATOR_REPORT_URL": report_url,
            "SIMULATOR_REPORT_HEADERS": json.dumps(report_headers or {}),
            "SIMULATOR_API_KEY": api_key,
            "SIMULATOR_SEED": str(seed),
        }
        self._process: subprocess.Popen[str] | None = None
        self._control: Simulator | None = None

    @property
    def address(self) -> str:
        """host:port."""
        return f"{LOOPBACK}:{self._port}"

    @property
    def base_url(self) -> str:
        """What a client of Mitto is configured with."""
        return f"http://{self.address}"

    @property
    def control(self) -> Simulator:
        """The control client."""
        if self._control is None:
            raise SimulatorStartError("not started")
        return self._control

    @property
    def pid(self) -> int:
        """Process id, while it runs."""
        if self._process is None:
            raise SimulatorStartError("not started")
        return self._process.pid

    def start(self) -> None:
        """Start, and return when it listens. Raises SimulatorStartError."""
        with self._errors.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "devstack.mitto"],
                env={**os.environ, **self._environment, "SIMULATOR_LISTEN": self.address},
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._await_start(self._process.stdout)
        self._control = Simulator(self.address, self.log_path)

    def kill(self) -> None:
        """SIGKILL: no goodbye."""
        if self._process is not None:
            self._process.kill()
        self._reap()

    def stop(self) -> int | None:
        """SIGTERM, then SIGKILL if that takes too long; returns the exit code."""
        if self._process is not None:
            self._process.terminate()
        return self._reap()

    def errors(self) -> str:
        """What it wrote to its standard error."""
        return self._errors.read_text()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        release_port(self._port)

    def _await_start(self, output: IO[str] | None) -> None:
        line = ""
        if output is not None:
            with selectors.DefaultSelector() as selector:
                selector.register(output, selectors.EVENT_READ)
                line = output.readline() if selector.select(START_SECONDS) else ""
        if not line:
            self.kill()
            raise SimulatorStartError(f"the simulator did not start: {self.errors().strip() or 'no word from it'}")

    def _reap(self) -> int | None:
        if self._control is not None:
            self._control.close()
        if self._process is None:
            return None
        try:
            code = self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait(STOP_SECONDS)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process = None
        return code
