"""The processes of a run: databases, the simulator, the peers, and dispatchers with every limit off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import peers
from bulksms_dispatcher.app import MIGRATIONS
from devstack.mitto.process import SimulatorProcess
from devstack.processes import ManagedProcess
from devstack.servers import ServerOptions, Servers
from devstack.serving import QUIET, serving
from servicekit import migrations


@dataclass(frozen=True, slots=True)
class Bench:
    """What every scenario runs on."""

    servers: Servers
    postgres_pid: int
    simulator: SimulatorProcess
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
            "RATE_LIMIT_TRAFFIC_ACCOUNT_MAX": "unlimited",
            "RATE_LIMIT_TENANT_MAX": "unlimited",
            "STATUS_REFRESH_MAX": "0",
            "JOURNAL_PATH": str(self.folder / "journal"),
        }

    @contextmanager
    def dispatcher(self, database_url: str, batch_size: int) -> Iterator[tuple[ManagedProcess, str]]:
        """A running dispatcher and its address."""
        environment = self.environment(database_url, batch_size)
        with serving("dispatcher", ["-m", "bulksms_dispatcher", "serve"], self.folder, environment) as started:
            yield started


@contextmanager
def bench(folder: Path) -> Iterator[Bench]:
    """Everything but the dispatchers, on a PostgreSQL that writes through to the disk."""
    with ExitStack() as stack:
        servers = stack.enter_context(
            Servers(ServerOptions(folder, ephemeral=True, fsync=True, database_url=None, redis_url=None))
        )
        assert servers.postgres is not None
        simulator = stack.enter_context(SimulatorProcess(folder))
        others, address = stack.enter_context(peers(folder))
        pid = servers.postgres.process.pid or 0
        yield Bench(servers, pid, simulator, simulator.base_url, others, address, folder)
