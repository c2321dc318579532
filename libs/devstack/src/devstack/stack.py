"""The whole suite as one object: servers, migrations, simulator, span store and services, started and stopped."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from devstack.identity import Identity
from devstack.plan import Plan, make_plan
from devstack.postgres import EmbeddedPostgres
from devstack.processes import ManagedProcess, ProcessFailed
from devstack.servers import OwnedDatabase, ServerOptions, Servers
from devstack.services import SERVICES, Service
from devstack.state import FolderLock, ProcessRecord, StackState, read_state, remove_state, write_state

_MIGRATION_TIMEOUT_SECONDS = 120.0
_STOP_GRACE_SECONDS = 10.0
_LOCK_TIMEOUT_SECONDS = 2.0

# The services other backends call.
_FOR_CLIENTS = ("campaign", "dispatcher", "ledger")


class AlreadyRunningError(Exception):
    """Another process runs a stack in this folder."""

    def __init__(self, folder: Path, state: StackState | None) -> None:
        self.state = state
        by = f" (process id {state.supervisor.pid})" if state else ""
        super().__init__(f"a stack already runs in {folder}{by}; stop it with `bulksms-devstack down`")


class StackStoppedError(Exception):
    """The stack was stopped while it was starting."""


@dataclass(frozen=True, slots=True)
class StackOptions:
    """What to start, and where."""

    folder: Path
    ephemeral: bool = False
    """Remove everything that was made when the stack stops."""
    fsync: bool = True
    replicas: Mapping[str, int] = field(default_factory=dict)
    """Processes per service; one where nothing is said, none with 0."""
    environment: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Variables per service (and for `simulator`), over those of services.py."""
    services: tuple[Service, ...] = SERVICES
    traces: bool = True
    """Whether a span store is started and the services export to it."""
    database_url: str | None = field(default_factory=lambda: os.environ.get("DATABASE_URL"), repr=False)
    redis_url: str | None = field(default_factory=lambda: os.environ.get("REDIS_URL"), repr=False)


def delete_stack_data(folder: Path) -> None:
    """Delete everything a stopped stack has kept, wherever PostgreSQL's data had to go."""
    EmbeddedPostgres(folder / "postgres").remove()
    shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Simulator:
    """The provider's stand-in: where it listens, what it has accepted."""

    address: str
    log_path: Path
    api_key: str = field(repr=False)

    @property
    def url(self) -> str:
        """The base URL of the provider's calls, and of /control/… too."""
        return f"http://{self.address}"


class Stack:
    """One running suite; a context manager. Nothing of it outlives the block, or the process."""

    def __init__(self, options: StackOptions, on_crash: Callable[[ManagedProcess], None] | None = None) -> None:
        unknown = (
            {*options.replicas, *options.environment} - {service.name for service in options.services} - {"simulator"}
        )
        if unknown:
            raise ValueError(f"no such service: {', '.join(sorted(unknown))}")
        self.options = options
        self.folder = options.folder.absolute()
        self.crashes: list[ProcessFailed] = []
        """What ended without being asked to, with its last log lines, in order."""
        self._on_crash = on_crash
        self._lock = threading.Lock()
        self._folder_lock = FolderLock(self.folder)
        self._processes: dict[str, ManagedProcess] = {}
        self._databases: dict[str, OwnedDatabase] = {}
        self._closing = threading.Event()
        self._starting_or_stopping = threading.RLock()
        self._ready = False
        self._servers: Servers | None = None
        self._plan: Plan | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything and wait until all of it is healthy; leaves nothing behind when that fails."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._folder_lock.acquire(_LOCK_TIMEOUT_SECONDS):
            raise AlreadyRunningError(self.folder, read_state(self.folder))
        with self._starting_or_stopping:
            threads = ThreadPoolExecutor(16, thread_name_prefix="stack")
            try:
                self._start_with(threads)
            except BaseException as error:
                stopped = self._closing.is_set()
                self.kill()  # what is being started now ends at once, so the threads end too
                threads.shutdown(cancel_futures=True)
                self.stop()
                if stopped and isinstance(error, Exception):
                    raise StackStoppedError from error
                raise
            threads.shutdown()

    def stop(self) -> None:
        """Stop everything in the reverse order; safe to call at any time, from any thread, and again."""
        self._closing.set()
        if not self._ready:
            self.kill()
        with self._starting_or_stopping:  # a start in another thread cleans up before it gives this back
            self._stop_everything()

    def kill(self) -> None:
        """Kill every process at once."""
        self._closing.set()
        for process in self.processes.values():
            process.kill()

    @property
    def ready(self) -> bool:
        """Whether everything has been started and found healthy, and stop has not been called."""
        return self._ready and not self._closing.is_set()

    @property
    def servers(self) -> Servers:
        """PostgreSQL and Valkey."""
        if self._servers is None:
            raise RuntimeError("the stack has not been started")
        return self._servers

    @property
    def plan(self) -> Plan:
        """Ports, replicas and environments."""
        if self._plan is None:
            raise RuntimeError("the stack has not been started")
        return self._plan

    @property
    def processes(self) -> dict[str, ManagedProcess]:
        """Every process of the stack by name (`postgres`, `valkey`, `simulator`, `spans`, `dispatcher-0`, …)."""
        with self._lock:
            return dict(self._processes)

    def address(self, service: str) -> str:
        """Return the gRPC target of a service, all its replicas."""
        return self.plan.address(service)

    def http_address(self, service: str, number: int = 0) -> str:
        """Return host:port of a service's HTTP server."""
        return self.plan.http_address(service, number)

    def process(self, service: str, number: int = 0) -> ManagedProcess:
        """Return one process of a service."""
        return self.processes[f"{service}-{number}"]

    def database_url(self, service: str) -> str:
        """Return the URL of a service's database, as the service's own role."""
        return self._databases[service].url

    @property
    def redis_url(self) -> str:
        """The Valkey or Redis URL."""
        return self.servers.redis_url

    @property
    def simulator(self) -> Simulator:
        """The provider's stand-in."""
        return Simulator(self.plan.simulator_address, self.plan.simulator_log, self.plan.simulator_api_key)

    @property
    def dlr_secret(self) -> str:
        """The secret the gateway expects with every delivery report."""
        return self.plan.dlr_secret

    @property
    def trace_store(self) -> Path:
        """The SQLite file with every span."""
        return self.plan.trace_store

    @property
    def client_environment(self) -> dict[str, str]:
        """What the client library and the `bulksms` command read to find this stack."""
        running = {replica.service.name for replica in self.plan.replicas}
        return {f"BULKSMS_{name.upper()}": self.address(name) for name in _FOR_CLIENTS if name in running}

    def check(self) -> None:
        """Raise the first crash, if there was one."""
        if self.crashes:
            raise self.crashes[0]

    def start_again(self, name: str) -> None:
        """Start a process of the stack that has ended, as it was."""
        if self._closing.is_set():
            raise StackStoppedError
        server = {"postgres": self.servers.postgres, "valkey": self.servers.valkey}.get(name)
        if server is not None:
            server.start()
        else:
            self.processes[name].start()

    def _stop_everything(self) -> None:
        plan, servers = self._plan, self._servers
        if plan is not None:
            migrations = [f"migrate-{service.name}" for service in self.options.services]
            self._stop_group([replica.name for replica in plan.replicas] + migrations)
            self._stop_group(["simulator", "spans"])
            plan.release_ports()
        if servers is not None:
            servers.stop()
        if self._folder_lock.acquired:
            remove_state(self.folder)
            if self.options.ephemeral:
                shutil.rmtree(self.folder, ignore_errors=True)
            self._folder_lock.release()

    def _start_with(self, threads: ThreadPoolExecutor) -> None:
        options = self.options
        identity = Identity(self.folder)
        server_options = ServerOptions(
            self.folder, options.ephemeral, options.fsync, options.database_url, options.redis_url
        )
        servers = self._servers = Servers(server_options, identity)
        plan = self._plan = make_plan(self.folder, identity, options.services, options.replicas)
        postgres = threads.submit(self._start_server, servers.start_postgres, "postgres")
        valkey = threads.submit(self._start_server, servers.start_valkey, "valkey")
        aside = [threads.submit(self._run, plan.simulator(options.environment.get("simulator", {})))]
        if options.traces:
            aside.append(threads.submit(self._run, plan.span_store()))
        groups = [
            threads.submit(self._bring_up, s, postgres, valkey, aside) for s in options.services if plan.replicas_of(s)
        ]
        for started in as_completed([postgres, valkey, *aside, *groups]):
            started.result()
        self.check()
        self._ready = True
        self._write_state()

    def _bring_up(
        self, service: Service, postgres: Future[None], valkey: Future[None], others: list[Future[None]]
    ) -> None:
        """Make and migrate a service's database as soon as the servers run, then start its processes."""
        overrides = self.options.environment.get(service.name, {})
        replicas = self.plan.replicas_of(service)
        valkey.result()
        around = self.plan.surroundings(self.servers, traces=self.options.traces)
        url = None
        if service.has_database:
            postgres.result()
            database = self._databases[service.name] = self.servers.create_database(service.database)
            url = database.url
            self._migrate(self.plan.migration(replicas[0], around, url, overrides))
        for other in others:
            other.result()
        processes = [self.plan.process(replica, around, url, overrides) for replica in replicas]
        for process in processes:
            self._adopt(process).spawn()
        for process in processes:
            process.wait_ready()

    def _migrate(self, migration: ManagedProcess) -> None:
        self._adopt(migration, watched=False).spawn()
        returncode = migration.wait(_MIGRATION_TIMEOUT_SECONDS)
        if returncode is None:
            migration.kill()
            raise migration.failure(f"took longer than {_MIGRATION_TIMEOUT_SECONDS:g} s")
        if returncode != 0:
            raise migration.failure(f"failed with exit code {returncode}")

    def _start_server(self, start: Callable[[], None], name: str) -> None:
        start()
        server = {"postgres": self.servers.postgres, "valkey": self.servers.valkey}[name]
        if server is not None:
            self._adopt(server.process)
            self._note_start(server.process)

    def _run(self, process: ManagedProcess) -> None:
        self._adopt(process).start()

    def _adopt(self, process: ManagedProcess, *, watched: bool = True) -> ManagedProcess:
        """Make a process one of this stack's, so that it is stopped with it and missed when it ends."""
        with self._lock:
            if self._closing.is_set():
                raise StackStoppedError
            self._processes[process.name] = process
        if watched:
            process.on_start = self._note_start
            process.on_crash = self._note_crash
        return process

    def _note_start(self, process: ManagedProcess) -> None:
        if self._closing.is_set():  # stopped between the check above and the fork
            process.kill()
            raise StackStoppedError
        self._write_state()

    def _note_crash(self, process: ManagedProcess) -> None:
        if self._closing.is_set():
            return
        self.crashes.append(process.crash_report())
        if self._on_crash is not None:
            self._on_crash(process)

    def _stop_group(self, names: list[str]) -> None:
        running = [process for name, process in self.processes.items() if name in names and process.running]
        with ThreadPoolExecutor(max(1, len(running)), thread_name_prefix="stop") as threads:
            for stopped in [threads.submit(process.stop, _STOP_GRACE_SECONDS) for process in running]:
                stopped.result()

    def _write_state(self) -> None:
        with self._lock:
            if self._closing.is_set():
                return
            records = [ProcessRecord.of(p.name, p.pid) for p in self._processes.values() if p.running and p.pid]
            plan = self.plan
            write_state(
                self.folder,
                StackState(
                    supervisor=ProcessRecord.of("supervisor", os.getpid()),
                    processes=records,
                    addresses=plan.addresses(),
                    environment=self.client_environment,
                    database_urls={name: database.url for name, database in self._databases.items()},
                    redis_url=self.redis_url if "valkey" in self._processes else "",
                    dlr_secret=plan.dlr_secret,
                    simulator_api_key=plan.simulator_api_key,
                    simulator_log=str(plan.simulator_log),
                    trace_store=str(plan.trace_store),
                    ready=self._ready,
                ),
            )
