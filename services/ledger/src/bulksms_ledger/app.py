"""The composition root: what the ledger is made of, in the order it starts."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from random import SystemRandom
from typing import Final

from bulksms.ledger.v1.ledger_pb2_grpc import add_LedgerServiceServicer_to_server
from bulksms_ledger.engine.account_writer import AccountWriter
from bulksms_ledger.engine.group_commit import GroupCommit
from bulksms_ledger.servicers.servicer import LedgerServicer
from bulksms_ledger.settings import Settings
from bulksms_ledger.storage.connections import open_database
from bulksms_ledger.storage.reading import Reader
from bulksms_ledger.workers.auditor import Auditor
from bulksms_ledger.workers.expiry import ExpiryWorker
from servicekit.clock import SystemClock
from servicekit.grpc.server import build_server
from servicekit.lifecycle import Component
from servicekit.worker import PeriodicWorker

SERVICE: Final = "bulksms.ledger.v1.LedgerService"
MIGRATIONS: Final = Path(__file__).parent / "migrations"


async def build(settings: Settings) -> Sequence[Component]:
    """The ledger's components; once the server has stopped, what waits is decided."""
    spare_the_collector()
    clock = SystemClock()
    database = open_database(settings)
    # The rest of the pool is for reading: a storm of decisions on many accounts must not starve it.
    account_writer = AccountWriter(database, clock, writing_at_once=max(1, settings.database_pool_size - 2))
    group_commit = GroupCommit(
        account_writer.decide,
        group_max=settings.group_operations_max,
        waiting_max=settings.waiting_operations_max,
    )
    expiry = ExpiryWorker(Reader(database), group_commit, clock, SystemRandom())
    server = build_server(
        settings,
        [(add_LedgerServiceServicer_to_server, LedgerServicer(database, clock, account_writer, group_commit), SERVICE)],
    )

    async def report_health(consistent: bool) -> None:  # noqa: FBT001 - the auditor's way to call it
        if consistent or not settings.audit_turns_health:
            await server.report_serving()
        else:
            await server.report_not_serving()

    auditor = Auditor(
        database,
        clock,
        report_health,
        rest=settings.audit_rest,
        abandoned_after=settings.reservation_abandoned_after,
    )

    async def audit_once() -> None:
        await auditor.audit_once()  # the next piece is due at the next tick, however much there is to do

    return [
        database,
        group_commit,
        PeriodicWorker("bulksms.ledger.expiry", settings.expiry_interval, expiry.expire_once),
        server,
        # Behind the server, whose health it changes.
        PeriodicWorker("bulksms.ledger.auditor", settings.audit_interval, audit_once),
    ]


def spare_the_collector() -> None:
    """Let the garbage collector look for cycles less often: with thousands of calls waiting that is 15 % of the time.

    Decisions make no cycles; what little the libraries make is still found.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
