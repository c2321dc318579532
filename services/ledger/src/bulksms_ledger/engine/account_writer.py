"""Account writer: decides operations on one account in one transaction, repeated until its outcome is known."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Final, TypeVar

from bulksms_ledger.domain import refusals
from bulksms_ledger.domain.account_session import AccountSession
from bulksms_ledger.domain.operations import (
    CreateAccount,
    Decision,
    OperationResult,
    Request,
    differing_fields,
    encode_outcome,
)
from bulksms_ledger.storage.account_sessions import (
    RawConnection,
    create_account,
    find_operations,
    load_session,
    lock_account,
    save_session,
)
from servicekit import errors
from servicekit.clock import Clock
from servicekit.database import Database, is_transient, violated_constraint

T = TypeVar("T")

# Every operation is idempotent, so a transaction of unknown outcome is simply done again: what it committed is then
# answered from the record. Longer outages are the caller's to wait for.
_REPEAT_DELAYS_SECONDS: Final = (0.05, 0.2, 0.5, 1.0)
_TRANSACTION_TIMEOUT_SECONDS: Final = 10.0
_OPERATIONS_KEY: Final = "operations_pkey"
_SLICE: Final = 50  # operations decided before the event loop has its turn: some 0.5 ms


class AccountWriter:
    """Decides groups of operations, each group on one account, under the account's lock.

    A transaction holds the lock of one account only, so no two can wait for each other in a circle. At most
    `writing_at_once` connections are in use for it.
    """

    def __init__(self, database: Database, clock: Clock, *, writing_at_once: int = 8) -> None:
        self._database = database
        self._clock = clock
        self._writing_at_once = asyncio.Semaphore(writing_at_once)

    async def decide(self, tenant_id: str, operations: Sequence[Request]) -> list[Decision]:
        """Decide the operations in order and commit them together."""

        async def decide_once(connection: RawConnection) -> list[Decision]:
            account = await lock_account(connection, tenant_id)
            if account is None:
                refusal = refusals.account_not_found(tenant_id)
                return [Decision(refusal, replayed=False) for _ in operations]
            session = await load_session(connection, account, operations)
            now = self._clock.now()
            decisions = await _decide_in_slices(session, operations, now)
            await save_session(connection, session, now)
            return decisions

        async with self._writing_at_once:
            return await self._repeated(decide_once)

    async def create_account(self, operation: CreateAccount) -> Decision:
        """Open an account; one that exists is answered as replayed, unless the request id is another operation's."""

        async def create_once(connection: RawConnection) -> Decision:
            for known in await find_operations(connection, [operation.request_id]):
                if known.operation != operation:
                    differs = differing_fields(known.operation, operation)
                    return Decision(refusals.request_id_reused(operation.request_id, differs), replayed=False)
            outcome = OperationResult()
            created = await create_account(connection, operation, encode_outcome(outcome), self._clock.now())
            return Decision(outcome, replayed=not created)

        return await self._repeated(create_once)

    async def _repeated(self, body: Callable[[RawConnection], Awaitable[T]]) -> T:
        for delay_seconds in _REPEAT_DELAYS_SECONDS:
            try:
                return await self._in_time(body)
            except Exception as error:
                if not _may_repeat(error):
                    raise
            await asyncio.sleep(delay_seconds)
        return await self._in_time(body)

    async def _in_time(self, body: Callable[[RawConnection], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(_TRANSACTION_TIMEOUT_SECONDS):
                return await self._database.run_raw_transaction(body)
        except TimeoutError:
            raise errors.unavailable(
                "DATABASE_SLOW", "The database did not answer in time: repeat with the same request_id."
            ) from None


async def _decide_in_slices(session: AccountSession, operations: Sequence[Request], now: datetime) -> list[Decision]:
    decisions: list[Decision] = []
    for start in range(0, len(operations), _SLICE):
        if start:
            await asyncio.sleep(0)
        decisions += [session.decide(operation, now) for operation in operations[start : start + _SLICE]]
    return decisions


def _may_repeat(error: Exception) -> bool:
    # The key of operations is violated when another tenant's group has just used the same request id: the next look
    # finds it and refuses.
    return is_transient(error) or violated_constraint(error) == _OPERATIONS_KEY
