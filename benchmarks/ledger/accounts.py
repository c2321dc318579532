"""The hot account of every scenario: how it is opened, and what is asked of it."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from uuid import UUID

from asyncpg.pgproto import pgproto

from bulksms_ledger.domain.accounts import SubscriptionStatus
from bulksms_ledger.domain.attempts import Authorize
from bulksms_ledger.domain.entries import Evidence
from bulksms_ledger.domain.operations import Capture, CreateAccount, GrantCredits, Reserve, SetSubscription
from bulksms_ledger.engine.account_writer import AccountWriter
from servicekit.clock import SystemClock
from servicekit.database import Database

UNITS = 900_000_000
RECIPIENTS = 100


class HotAccount:
    """A tenant with one large reservation, and an endless supply of captures of one credit and of attempts."""

    def __init__(self, tenant_id: str, seed: int) -> None:
        self.tenant_id = tenant_id
        self._opening = Random(f"opening {seed}")
        self._capturing = Random(f"capturing {seed}")  # another process makes the same captures from the same seed
        self._authorizing = Random(f"authorizing {seed}")
        self.reservation_id = _uuid(Random(f"reservation {seed}"))

    async def open(self, url: str) -> None:
        """Open the account, grant and reserve."""
        database = Database(url, application_name="benchmark setup")
        writer = AccountWriter(database, SystemClock())
        try:
            await writer.create_account(CreateAccount(_uuid(self._opening), self.tenant_id))
            active = SetSubscription(_uuid(self._opening), self.tenant_id, SubscriptionStatus.ACTIVE, None, "benchmark")
            grant = GrantCredits(_uuid(self._opening), self.tenant_id, 1_000_000_000)
            reserve = Reserve(_uuid(self._opening), self.tenant_id, self.reservation_id, UNITS, "benchmark")
            await writer.decide(self.tenant_id, [active, grant, reserve])
        finally:
            await database.stop()

    def captures(self, count: int) -> Iterator[Capture]:
        """So many captures of one credit, each with the evidence of a batch."""
        batch_id = str(_uuid(self._capturing))
        for epoch in range(1, count + 1):
            evidence = Evidence(batch_id, epoch, batch_id, 1, 1)
            yield Capture(_uuid(self._capturing), self.tenant_id, self.reservation_id, 1, evidence)

    def authorizations(self, count: int) -> Iterator[Authorize]:
        """So many attempts, each of a batch of 100 recipients of one snapshot."""
        for first in range(0, count * RECIPIENTS, RECIPIENTS):
            names = (self.tenant_id, self.reservation_id, _uuid(self._authorizing))
            yield Authorize(*names, "benchmark", 0, b"snapshot", ((first, first + RECIPIENTS),), RECIPIENTS)


def _uuid(random: Random) -> UUID:
    # Of the class that a request's ids are read as.
    value: UUID = pgproto.UUID(str(UUID(int=random.getrandbits(128), version=4)))
    return value
