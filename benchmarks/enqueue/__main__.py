"""`python -m benchmarks.enqueue`: EnqueueCampaign on a large audience, one call at a time with pauses between.

The campaign service runs in this process without its workers: nothing is launched, so that what is measured is the
call, not 64 million recipients copied beside it, and no audience is counted beforehand. Its CPU time contains the
client's. The ledger has a process of its own.
"""

from __future__ import annotations

import argparse
import io
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop
from pydantic import SecretStr

import bulksms_campaign
from benchmarks.enqueue import composed
from benchmarks.enqueue.calls import FIRST_PHONE, drafts, enqueue
from benchmarks.report import Figure, Meter, machine, publish
from bulksms.ledger.v1 import ledger_pb2
from bulksms_campaign.app import build
from bulksms_campaign.settings import Settings
from bulksms_client import AsyncClient
from bulksms_ledger.app import MIGRATIONS
from devstack.servers import ServerOptions, Servers
from devstack.serving import serving
from devstack.temporary import temporary_folder
from servicekit import logs, migrations
from servicekit.grpc.server import GrpcServer
from servicekit.lifecycle import running
from servicekit.settings import Endpoint
from servicekit.worker import PeriodicWorker

_TITLE = "EnqueueCampaign, one call at a time: count, reserve, flip; PostgreSQL with fsync on, ledger beside it"


def main() -> int:
    """Run it; figures to standard output as JSON, the table to standard error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.enqueue", description=__doc__)
    parser.add_argument("--contacts", type=int, default=1_000_000)
    parser.add_argument("--calls", type=int, default=64)
    parser.add_argument("--pause-ms", type=float, default=100.0, help="from a response to the next call")
    parser.add_argument("--json", type=Path, help="write the JSON document there instead")
    arguments = parser.parse_args()
    logs.configure("WARNING")
    before = machine()
    with (
        temporary_folder("benchmark") as folder,
        Servers(ServerOptions(folder, ephemeral=True, fsync=True, database_url=None, redis_url=None)) as servers,
    ):
        figures = uvloop.run(_run(arguments, servers, folder))
    publish(_TITLE, figures, before, arguments.json)
    return 0


async def _run(arguments: argparse.Namespace, servers: Servers, folder: Path) -> list[Figure]:
    assert servers.postgres is not None
    postgres = servers.postgres.process.pid or 0
    urls = {name: servers.create_database(name).url for name in ("campaign", "ledger")}
    await migrations.upgrade(urls["campaign"], Path(bulksms_campaign.__file__).parent / "migrations")
    await migrations.upgrade(urls["ledger"], MIGRATIONS)
    with serving("ledger", ["-m", "bulksms_ledger", "serve"], folder, {"DATABASE_URL": urls["ledger"]}) as ledger:
        settings = _settings(urls["campaign"], ledger[1])
        async with _client(settings) as client:
            meter = Meter()
            await _import_contacts(client, arguments.contacts)
            imported = meter.figure("import contacts", arguments.contacts)
            await composed.import_groups(client, arguments.contacts)
            await _open_account(client)
            campaign_ids = await drafts(client, arguments.calls + 1, groups=["customers"])
        # Served anew, so that the first call opens connections and prepares statements as a new process does.
        async with _client(settings) as client:
            scenario = f"EnqueueCampaign, {arguments.contacts:,} contacts"
            processes = {"campaign": os.getpid(), "ledger": ledger[0].pid or 0, "postgres": postgres}
            pause_seconds = arguments.pause_ms / 1000
            meter = Meter(**processes)
            first = meter.figure(f"{scenario}, first call", 1, await enqueue(client, campaign_ids[:1], 0))
            meter = Meter(**processes)
            latencies = await enqueue(client, campaign_ids[1:], pause_seconds)
            figures = [imported, first, meter.figure(scenario, arguments.calls, latencies)]
            return figures + await composed.measure(
                client, arguments.contacts, arguments.calls, pause_seconds, lambda: Meter(**processes)
            )


@asynccontextmanager
async def _client(settings: Settings) -> AsyncIterator[AsyncClient]:
    """A client of the campaign service, which runs in this process, and of the ledger."""
    components = await build(settings)
    idle = [component for component in components if not isinstance(component, PeriodicWorker)]
    async with running(idle):
        server = next(component for component in idle if isinstance(component, GrpcServer))
        ledger = settings.ledger_address
        async with AsyncClient(campaign=server.address, ledger=ledger, tenant_id="acme", timeout=30) as client:
            yield client


def _settings(database_url: str, ledger_address: str) -> Settings:
    return Settings.model_validate(
        {
            "database_url": SecretStr(database_url),
            "ledger_address": ledger_address,
            "dispatcher_address": "127.0.0.1:1",
            "grpc_listen": Endpoint("127.0.0.1", 0),
            "log_level": "WARNING",
        }
    )


async def _import_contacts(client: AsyncClient, contacts: int) -> None:
    lines = "".join(f"Maria,+{FIRST_PHONE + number}\n" for number in range(contacts))
    await client.contacts.import_csv(io.BytesIO(f"first_name,phone\n{lines}".encode()), groups=["customers"])


async def _open_account(client: AsyncClient) -> None:
    """The tenant can pay for all that is enqueued."""
    await client.credits.open_account()
    await client.credits.set_subscription(ledger_pb2.SUBSCRIPTION_STATUS_ACTIVE, reason="benchmark")
    await client.credits.grant(10**9)


if __name__ == "__main__":
    raise SystemExit(main())
