"""A PostgreSQL server of our own: real, over TCP on a free port, in a folder of the project, without root's help."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import psutil

from devstack.ports import LOOPBACK, choose_port, release_port
from devstack.postgres_cluster import SUPERUSER, PostgresCluster
from devstack.postgres_installation import PostgresUnavailableError
from devstack.processes import ManagedProcess, ProcessFailed

_START_TIMEOUT_SECONDS = 60.0
_START_ATTEMPTS = 5
_LEFTOVER_SECONDS = 15.0


class EmbeddedPostgres:
    """One PostgreSQL cluster in `folder`; made on the first start, kept between starts, removed by `remove`.

    `fsync=False` is for tests: data survives the death of every process, not of the machine.
    """

    def __init__(self, folder: Path, *, fsync: bool = True) -> None:
        self.folder = folder.absolute()
        self.port: int | None = None
        self._fsync = fsync
        self._cluster = PostgresCluster(self.folder)
        self._process: ManagedProcess | None = None

    @property
    def process(self) -> ManagedProcess:
        """The postmaster; pause, resume and last_log_lines are found there."""
        if self._process is None:
            raise RuntimeError("PostgreSQL has not been started")
        return self._process

    @property
    def url(self) -> str:
        """The superuser's URL; create roles and databases with it, do not give it to a service."""
        return self.url_of(SUPERUSER, self._cluster.password, "postgres")

    def url_of(self, user: str, password: str, database: str) -> str:
        """Return a URL of this server."""
        return f"postgresql://{user}:{password}@{LOOPBACK}:{self.port}/{database}"

    def start(self) -> None:
        """Start the server and wait until it takes connections; also after a kill of any kind, on the same port."""
        if self._process is not None and self._process.running:
            return
        for attempt in range(_START_ATTEMPTS):
            try:
                self._start_once()
            except ProcessFailed as failure:
                if attempt + 1 == _START_ATTEMPTS or not _is_worth_another_attempt(failure):
                    raise
                time.sleep(0.2 * 2**attempt)  # backends of a killed server take a moment to notice
            else:
                return

    def stop(self, grace_seconds: float = 10.0) -> None:
        """End the server as PostgreSQL's "fast" shutdown does; clients are disconnected, data is written."""
        if self._process is not None:
            self._process.stop(grace_seconds)

    def kill(self) -> None:
        """Kill the server and all its backends with SIGKILL, as a crash of the machine's memory would."""
        self.process.kill()

    def restart(self, grace_seconds: float = 10.0) -> None:
        """Stop it if it runs, and start it on the same port."""
        self.stop(grace_seconds)
        self.start()

    def remove(self) -> None:
        """Stop it and delete its data."""
        self.stop()
        self._cluster.remove()
        if self.port is not None:
            release_port(self.port)
        self._process = self.port = None

    def _start_once(self) -> None:
        self._await_end_of_leftovers()
        if self._process is not None:  # others know the port by now
            self._process.start()
            return
        self._cluster.prepare()
        self.port = choose_port()
        process = self._process = self._make_process()
        try:
            process.start()
        except ProcessFailed:
            process.kill()
            release_port(self.port)
            self._process = self.port = None
            raise

    def _make_process(self) -> ManagedProcess:
        return ManagedProcess(
            "postgres",
            [self._cluster.installation.programs / "postgres", "-D", self._cluster.data, *self._settings()],
            log_path=self.folder / "postgres.log",
            account=self._cluster.installation.account,
            ready=self._is_ready,
            ready_timeout_seconds=_START_TIMEOUT_SECONDS,
            stop_signal=signal.SIGINT,
            # Immediate shutdown: it takes its backends along and needs no time.
            death_signal=signal.SIGQUIT,
        )

    def _settings(self) -> list[str]:
        settings = {
            "listen_addresses": LOOPBACK,
            "port": self.port,
            "unix_socket_directories": "",  # their paths are limited to 107 bytes and /tmp is everybody's
            "max_connections": 300,
            "shared_buffers": "128MB",
            # /dev/shm is 64 MB in a container; files in the data folder have no such limit.
            "shared_memory_type": "mmap",
            "dynamic_shared_memory_type": "mmap",
            "fsync": "on" if self._fsync else "off",
            "full_page_writes": "on" if self._fsync else "off",
            "synchronous_commit": "on",  # never off: it loses commits at kill -9, which is what we test
            "wal_level": "minimal",
            "max_wal_senders": 0,
            "min_wal_size": "80MB",
            "max_wal_size": "1GB",
            "checkpoint_timeout": "15min",
            "jit": "off",
            "timezone": "UTC",
            "log_timezone": "UTC",
            "log_line_prefix": "%m [%p] %u@%d ",
            "log_checkpoints": "off",
            # A statement's text can hold phone numbers; the message and the code say enough.
            "log_min_error_statement": "panic",
            "log_parameter_max_length_on_error": 0,
            "scram_iterations": 512,  # our passwords are 128 random bits: rounds would only slow connecting
            "io_method": "sync",  # three idle processes fewer
        }
        if self._cluster.installation.major_version < 18:
            del settings["io_method"]
        if self._cluster.installation.major_version < 16:
            del settings["scram_iterations"]
        return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]

    def _is_ready(self) -> bool:
        """As pg_ctl does: the eighth line of postmaster.pid, which must be this very process's."""
        try:
            lines = (self._cluster.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.process.pid) and lines[7].strip() == "ready"

    def _await_end_of_leftovers(self) -> None:
        """See that no earlier server is on this data, and remove the pid file of one that was killed.

        PostgreSQL itself would mistake any process that has got the old pid for a running server.
        """
        pid_file = self._cluster.data / "postmaster.pid"
        deadline = time.monotonic() + _LEFTOVER_SECONDS
        while True:
            try:
                pid = abs(int(pid_file.read_text().splitlines()[0]))
            except (FileNotFoundError, ValueError, IndexError):
                return
            if not _is_postmaster(pid, self._cluster.data):
                pid_file.unlink(missing_ok=True)
                return
            if time.monotonic() > deadline:
                raise PostgresUnavailableError(
                    f"another PostgreSQL (process id {pid}) runs on {self._cluster.data}: stop what started it first"
                )
            time.sleep(0.05)


def _is_postmaster(pid: int, data: Path) -> bool:
    try:
        return str(data) in psutil.Process(pid).cmdline()
    except psutil.Error:
        return False


def _is_worth_another_attempt(failure: ProcessFailed) -> bool:
    """A port taken since it was chosen, or shared memory that backends of a killed server still hold."""
    log = "\n".join(failure.last_log_lines)
    return any(sign in log for sign in ("could not bind", "pre-existing shared memory block", "Address already in use"))
