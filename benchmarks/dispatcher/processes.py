"""The processes of a run: databases, the simulator, the peers, and dispatchers with every limit off."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bulksms_dispatcher.app import MIGRATIONS
from devstack.health import is_serving
from devstack.ports import accepts_connections, choose_port, release_port
from devstack.process_run import base_environment
from devstack.processes import ManagedProcess
from devstack.servers import ServerOptions, Servers
from servicekit import migrations

_ROOT = Path(__file__).resolve().parents[2]
QUIET = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none", "LOG_LEVEL": "WARNING"}


@dataclass(frozen=True, slots=True)
class Bench:
    """What every scenario runs on."""

    servers: Servers
    postgres_pid: int
    simulator: ManagedProcess
    simulator_url: str
    peers: ManagedProcess
    peers_address: str
    folder: Path

    async def new_database(self, name: str) -> str:
        """A migrated database; its URL."""
        url = self.servers.create_database(name).url
        await migrations.upgrade(url, MIGRATIONS)
        return url

    def environment(self, database_url: str, batch_size: int) -> dict[str, str]:
        """A dispatcher's, with the limits off."""
        return {
            **QUIET,
            "DATABASE_URL": database_url,
            "REDIS_URL": self.servers.redis_url,
            "CAMPAIGN_ADDRESS": self.peers_address,
            "LEDGER_ADDRESS": self.peers_address,
            "MITTO_BASE_URL": self.simulator_url,
            "MITTO_API_KEY": "key",
            "MITTO_TRAFFIC_ACCOUNT_ID": "7c8b0a52-33a1-4a36-a1b0-0f61b1c2d3e4",
            "SMS_BATCH_SIZE": str(batch_size),
            "RATE_LIMIT_TRAFFIC_ACCOUNT_MAX": "0",
            "RATE_LIMIT_TENANT_MAX": "0",
            "STATUS_REFRESH_MAX": "0",
            "JOURNAL_PATH": str(self.folder / "journal"),
        }

    @contextmanager
    def dispatcher(self, database_url: str, batch_size: int) -> Iterator[tuple[ManagedProcess, str]]:
        """A running dispatcher and its address."""
        with _process(
            "dispatcher",
            ["-m", "bulksms_dispatcher", "serve"],
            self.folder,
            self.environment(database_url, batch_size),
        ) as started:
            yield started


@contextmanager
def bench(folder: Path) -> Iterator[Bench]:
    """Everything but the dispatchers, on a PostgreSQL that writes through to the disk."""
    with ExitStack() as stack:
        servers = stack.enter_context(
            Servers(ServerOptions(folder, ephemeral=True, fsync=True, database_url=None, redis_url=None))
        )
        assert servers.postgres is not None
        port = choose_port()
        stack.callback(release_port, port)
        simulator = ManagedProcess(
            "simulator",
            [sys.executable, "-m", "devstack.mitto"],
            log_path=folder / "simulator.log",
            environment={
                **base_environment(),
                "SIMULATOR_LISTEN": f"127.0.0.1:{port}",
                "SIMULATOR_LOG": str(folder / "accepted.log"),
            },
            folder=_ROOT,
            ready=partial(accepts_connections, port),
        )
        simulator.start()
        stack.callback(simulator.stop)
        peers, address = stack.enter_context(_process("peers", ["-m", "benchmarks.dispatcher.peers"], folder, QUIET))
        pid = servers.postgres.process.pid or 0
        yield Bench(servers, pid, simulator, f"http://127.0.0.1:{port}", peers, address, folder)


@contextmanager
def _process(
    name: str, arguments: list[str], folder: Path, environment: Mapping[str, str]
) -> Iterator[tuple[ManagedProcess, str]]:
    port = choose_port()
    is_ready = is_serving if name == "dispatcher" else accepts_connections
    process = ManagedProcess(
        name,
        [sys.executable, *arguments],
        log_path=folder / f"{name}-{port}.log",
        environment={**base_environment(), "GRPC_LISTEN": f"127.0.0.1:{port}", **environment},
        folder=_ROOT,
        ready=partial(is_ready, port),
    )
    process.start()
    try:
        yield process, f"127.0.0.1:{port}"
    finally:
        process.stop()
        release_port(port)
