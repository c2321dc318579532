"""Inside the service: captures through group commit, without a network."""

from __future__ import annotations

import asyncio
import os
import time

from benchmarks.ledger.accounts import HotAccount
from benchmarks.report import Figure, Meter
from bulksms_ledger.app import spare_the_collector
from bulksms_ledger.engine.account_writer import AccountWriter
from bulksms_ledger.engine.group_commit import GroupCommit
from bulksms_ledger.settings import Settings
from bulksms_ledger.storage.connections import open_database
from servicekit.clock import SystemClock
from servicekit.settings import load


async def inside_the_service(url: str, postgres: int, *, callers: int, items: int) -> Figure:
    """Captures of one credit, each asked for by itself, as the RPC does it."""
    spare_the_collector()
    account = HotAccount(f"inside-{callers}", seed=callers)
    await account.open(url)
    settings = load(Settings, database_url=url)
    database = open_database(settings, "benchmark")
    group_commit = GroupCommit(
        AccountWriter(database, SystemClock()).decide,
        group_max=settings.group_operations_max,
        waiting_max=settings.waiting_operations_max,
    )
    captures = iter(list(account.captures(items)))  # made beforehand, as a caller of the service would have
    latencies: list[float] = []

    async def caller() -> None:
        for capture in captures:
            started = time.perf_counter()
            await group_commit.decide(account.tenant_id, [capture])
            latencies.append(time.perf_counter() - started)

    try:
        meter = Meter(ledger=os.getpid(), postgres=postgres)
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(caller())
        return meter.figure(f"inside the service, {callers:,} callers", items, latencies)
    finally:
        await group_commit.stop()
        await database.stop()
