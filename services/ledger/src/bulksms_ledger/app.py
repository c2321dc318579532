"""The composition root: what the ledger is made of, in the order it starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import SystemRandom
from typing import Final

from bulksms.ledger.v1.ledger_pb2_grpc import add_LedgerServiceServicer_to_server
from bulksms_ledger.bookkeeping import Bookkeeper
from bulksms_ledger.group_commit import GroupCommit
from bulksms_ledger.servicer import LedgerServicer
from bulksms_ledger.settings import Settings
from bulksms_ledger.storage.reading import Reader
from bulksms_ledger.workers.expiry import ExpiryWorker
from servicekit.clock import SystemClock
from servicekit.database import Database
from servicekit.grpc.server import build_server
from servicekit.lifecycle import Component
from servicekit.worker import PeriodicWorker

SERVICE: Final = "bulksms.ledger.v1.LedgerService"
MIGRATIONS: Final = Path(__file__).parent / "migrations"


async def build(settings: Settings) -> Sequence[Component]:
    """The ledger's components; the server starts last and stops first, then what waits is decided."""
    clock = SystemClock()
    database = Database.from_settings(settings, application_name="ledger")
    bookkeeper = Bookkeeper(database, clock)
    group_commit = GroupCommit(
        bookkeeper.decide,
        group_max=settings.group_operations_max,
        waiting_max=settings.waiting_operations_max,
        # The rest of the pool is for reading: a storm of decisions on many accounts must not starve it.
        groups_at_once=max(1, settings.database_pool_size - 2),
    )
    expiry = ExpiryWorker(Reader(database), group_commit, clock, SystemRandom())
    server = build_server(
        settings,
        [(add_LedgerServiceServicer_to_server, LedgerServicer(database, clock, bookkeeper, group_commit), SERVICE)],
    )
    return [
        database,
        group_commit,
        PeriodicWorker("ledger.expiry", settings.expiry_interval, expiry.expire_once),
        server,
    ]
