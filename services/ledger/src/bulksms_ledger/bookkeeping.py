"""Bookkeeping: decides operations on one account in one transaction, repeated until it is known what became of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final, TypeVar

from bulksms_ledger import refusals
from bulksms_ledger.desks import Desk
from bulksms_ledger.drafts import Draft, FewCaptures, PackedDraft, make_draft, make_draft_ahead
from bulksms_ledger.operations import (
    Answer,
    AnyOperation,
    CreateAccount,
    Decision,
    differing_fields,
    encode_outcome,
)
from bulksms_ledger.storage.books import (
    RawConnection,
    create_account,
    find_operations,
    load_book,
    lock_account,
    lock_account_and_look,
    save_book,
)
from bulksms_ledger.storage.captures import write_captures
from servicekit import errors
from servicekit.clock import Clock
from servicekit.database import Database, is_transient, violated_constraint

T = TypeVar("T")
Body = Callable[[RawConnection], Awaitable[T]]

# Every operation is idempotent, so a transaction of unknown outcome is simply done again: what it committed is then
# answered from the record. Longer outages are the caller's to wait for.
_REPEAT_DELAYS_SECONDS: Final = (0.05, 0.2, 0.5, 1.0)
_TRANSACTION_TIMEOUT_SECONDS: Final = 10.0
_OPERATIONS_KEY: Final = "operations_pkey"


class Bookkeeper:
    """Decides groups of operations, each group on one account, under the account's lock.

    A transaction holds the lock of one account only, so no two can wait for each other in a circle. At most
    `writing_at_once` connections are in use for it.
    """

    def __init__(self, database: Database, clock: Clock, *, writing_at_once: int = 8) -> None:
        self._database = database
        self._clock = clock
        self._writing_at_once = asyncio.Semaphore(writing_at_once)
        self._desks: dict[str, Desk] = {}  # those used last at the end

    async def decide(self, tenant_id: str, operations: Sequence[AnyOperation]) -> list[Decision]:
        """Decide the operations in order and commit them together.

        Groups of one account are committed in the order they come. While one is written the next may be decided
        already, on what the one before leaves: the account's row, locked, says whether that has come true. Where it has
        not (another process has been at the account, the group before failed, a request id has been used before) the
        group is decided again, on what there is.
        """
        with self._desk(tenant_id) as desk:
            async with desk.deciding:
                draft = await self._decide_ahead(desk, operations)
                if draft is None:
                    async with desk.writing:
                        return await self._write(tenant_id, desk, operations, None)
                await desk.writing.acquire()
            try:
                return await self._write(tenant_id, desk, operations, draft)
            finally:
                desk.writing.release()

    async def create_account(self, operation: CreateAccount) -> Decision:
        """Open an account; one that exists is answered as replayed, unless the request id is another operation's."""

        async def create_once(connection: RawConnection) -> Decision:
            for known in await find_operations(connection, [operation.request_id]):
                if known.operation != operation:
                    differs = differing_fields(known.operation, operation)
                    return Decision(refusals.request_id_reused(operation.request_id, differs), replayed=False)
            outcome = Answer()
            created = await create_account(connection, operation, encode_outcome(outcome), self._clock.now())
            return Decision(outcome, replayed=not created)

        return await self._repeated(create_once, self._database.run_raw_transaction)

    @property
    def accounts_in_memory(self) -> int:
        """Of how many accounts something is known from a group before."""
        return len(self._desks)

    @contextmanager
    def _desk(self, tenant_id: str) -> Iterator[Desk]:
        desk = self._desks.pop(tenant_id) if tenant_id in self._desks else Desk()
        self._desks[tenant_id] = desk
        desk.groups += 1
        try:
            yield desk
        finally:
            desk.groups -= 1
            desk.left_at = now = self._clock.monotonic()
            # What is in memory is what was asked for within a second or so.
            while (name := next(iter(self._desks))) != tenant_id and self._desks[name].is_given_up(now):
                del self._desks[name]

    async def _decide_ahead(self, desk: Desk, operations: Sequence[AnyOperation]) -> PackedDraft | FewCaptures | None:
        base = desk.take_for(operations, self._clock.monotonic())
        if base is None:
            return None
        draft = await make_draft_ahead(base, operations, self._clock.now())
        desk.decided(draft.book)
        return draft

    async def _write(
        self,
        tenant_id: str,
        desk: Desk,
        operations: Sequence[AnyOperation],
        ahead: PackedDraft | FewCaptures | None,
    ) -> list[Decision]:
        """Commit what has been decided ahead, or else decide and commit."""
        draft: Draft | None
        try:
            async with self._writing_at_once:
                if isinstance(ahead, FewCaptures):
                    written = await self._write_captures(desk, ahead)
                    draft = ahead if written else await self._decide_locked(tenant_id, desk, operations, None)
                else:
                    draft = await self._decide_locked(tenant_id, desk, operations, ahead)
        except BaseException:
            desk.forget()
            raise
        if draft is None:
            refusal = refusals.account_not_found(tenant_id)
            return [Decision(refusal, replayed=False) for _ in operations]
        desk.settle(draft)
        return draft.decisions

    async def _write_captures(self, desk: Desk, ahead: FewCaptures) -> bool:
        """Write a few captures at one stroke, if what they were decided on has come true."""
        base = ahead.base
        if base is None or not desk.may_come_true(ahead):
            return False

        async def write_once(connection: RawConnection) -> bool:
            return await write_captures(connection, base.account, ahead.book, ahead.decided_at)

        return await self._repeated(write_once, self._database.run_raw_statement)

    async def _decide_locked(
        self, tenant_id: str, desk: Desk, operations: Sequence[AnyOperation], ahead: PackedDraft | None
    ) -> PackedDraft | None:
        """Lock the account, see whether what was decided ahead holds, decide where it does not, and commit.

        None when there is no account.
        """

        async def decide_once(connection: RawConnection) -> PackedDraft | None:
            if ahead is None or ahead.base is None:
                account = await lock_account(connection, tenant_id)
            else:
                account, has_repeats = await lock_account_and_look(connection, tenant_id, operations)
                if not has_repeats and ahead.base.account == account and desk.may_come_true(ahead):
                    await save_book(connection, ahead.book, ahead.packed, ahead.decided_at)
                    return ahead
            if account is None:
                return None
            book = desk.recall(await load_book(connection, account, operations), self._clock.monotonic())
            draft = await make_draft(book, operations, self._clock.now())
            await save_book(connection, draft.book, draft.packed, draft.decided_at)
            return draft

        return await self._repeated(decide_once, self._database.run_raw_transaction)

    async def _repeated(self, body: Body[T], run: Callable[[Body[T]], Awaitable[T]]) -> T:
        for delay_seconds in _REPEAT_DELAYS_SECONDS:
            try:
                return await self._in_time(body, run)
            except Exception as error:
                if not _may_repeat(error):
                    raise
            await asyncio.sleep(delay_seconds)
        return await self._in_time(body, run)

    async def _in_time(self, body: Body[T], run: Callable[[Body[T]], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(_TRANSACTION_TIMEOUT_SECONDS):
                return await run(body)
        except TimeoutError:
            raise errors.unavailable(
                "DATABASE_SLOW", "The database did not answer in time: repeat with the same request_id."
            ) from None


def _may_repeat(error: Exception) -> bool:
    # The key of operations is violated when another tenant's group has just used the same request id: the next look
    # finds it and refuses.
    return is_transient(error) or violated_constraint(error) == _OPERATIONS_KEY
