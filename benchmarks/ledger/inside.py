"""Inside the service: captures and authorizations through group commit, without a network."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence

from benchmarks.ledger.accounts import HotAccount
from benchmarks.report import Figure, Meter
from bulksms_ledger.app import spare_the_collector
from bulksms_ledger.domain.operations import Request
from bulksms_ledger.domain.refusals import DomainRefusal
from bulksms_ledger.engine.account_writer import AccountWriter
from bulksms_ledger.engine.group_commit import GroupCommit
from bulksms_ledger.settings import Settings
from bulksms_ledger.storage.connections import open_database
from servicekit.clock import SystemClock
from servicekit.settings import load


async def captures_inside(url: str, postgres: int, *, callers: int, items: int) -> Figure:
    """Captures of one credit, each asked for by itself, as the RPC does it."""
    account = HotAccount(f"inside-{callers}", seed=callers)
    await account.open(url)
    name = f"inside the service, {callers:,} callers"
    return await _inside(name, url, postgres, account, list(account.captures(items)), callers)


async def authorizations_inside(url: str, postgres: int, *, callers: int, items: int) -> Figure:
    """Attempts of 100 recipients, each asked for by itself."""
    account = HotAccount(f"authorize-{callers}", seed=10_000 + callers)
    await account.open(url)
    name = f"authorizations inside the service, {callers:,} callers"
    return await _inside(name, url, postgres, account, list(account.authorizations(items)), callers)


async def _inside(
    name: str, url: str, postgres: int, account: HotAccount, asked: Sequence[Request], callers: int
) -> Figure:
    """What is asked was made beforehand, as a caller of the service would have."""
    spare_the_collector()
    settings = load(Settings, database_url=url)
    database = open_database(settings, "benchmark")
    group_commit = GroupCommit(
        AccountWriter(database, SystemClock()).decide,
        group_max=settings.group_operations_max,
        waiting_max=settings.waiting_operations_max,
    )
    requests = iter(asked)
    latencies: list[float] = []

    refused = 0

    async def caller() -> None:
        nonlocal refused
        for request in requests:
            started = time.perf_counter()
            [decision] = await group_commit.decide(account.tenant_id, [request])
            latencies.append(time.perf_counter() - started)
            refused += isinstance(decision.outcome, DomainRefusal)

    try:
        meter = Meter(ledger=os.getpid(), postgres=postgres)
        async with asyncio.TaskGroup() as group:
            for _ in range(callers):
                group.create_task(caller())
        if refused:
            raise RuntimeError(f"{refused} were refused: what is measured is not what is meant")
        return meter.figure(name, len(asked), latencies)
    finally:
        await group_commit.stop()
        await database.stop()
