"""Expiry: writes off what is left of lots past their end, so that balances say it without anybody asking."""

from __future__ import annotations

from random import Random

from bulksms_ledger.domain.operations import ExpireLots
from bulksms_ledger.engine.group_commit import GroupCommit
from bulksms_ledger.storage.reading import Reader
from servicekit.clock import Clock
from servicekit.ids import uuid7

_ACCOUNTS_AT_ONCE = 100


class ExpiryWorker:
    """Finds accounts with expired lots and has them written off, as any decision on them would, too."""

    def __init__(self, reader: Reader, group_commit: GroupCommit, clock: Clock, random: Random) -> None:
        self._reader = reader
        self._group_commit = group_commit
        self._clock = clock
        self._random = random

    async def expire_once(self) -> bool:
        """One round; True when there may be more to do."""
        tenants = await self._reader.tenants_with_expired_lots(self._clock.now(), limit=_ACCOUNTS_AT_ONCE)
        for tenant_id in tenants:
            operation = ExpireLots(uuid7(self._clock, self._random), tenant_id)
            await self._group_commit.decide(tenant_id, [operation])
        return len(tenants) == _ACCOUNTS_AT_ONCE
