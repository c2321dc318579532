"""Account sessions in the database: lock the account, load what a group of operations needs, save what it changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol
from uuid import UUID

import msgspec

from bulksms_ledger.domain.account_session import AccountSession
from bulksms_ledger.domain.accounts import GENESIS_HASH, Account
from bulksms_ledger.domain.attempts import Authorize
from bulksms_ledger.domain.lots import Lots
from bulksms_ledger.domain.operations import (
    CreateAccount,
    GrantCredits,
    Operation,
    RecordedOperation,
    Request,
    encode_content,
)
from bulksms_ledger.domain.positions import Range, merge
from bulksms_ledger.domain.reservations import AllocatedReservation
from bulksms_ledger.storage import statements
from bulksms_ledger.storage.authorizations import StoredAuthorization, authorization_from_stored, encode_positions
from bulksms_ledger.storage.records import ENTRY_COLUMNS, OPERATION_COLUMNS, entry_record, operation_record
from bulksms_ledger.storage.rows import account_from_row, encode_json


class RawConnection(Protocol):
    """The part of an asyncpg connection that is used here."""

    async def fetch(self, query: str, *args: Any) -> Sequence[Any]:
        """Run a query and return its rows."""

    async def fetchrow(self, query: str, *args: Any) -> Any:
        """Run a query and return its first row, or None."""

    async def execute(self, query: str, *args: Any) -> str:
        """Run a statement."""

    async def copy_records_to_table(
        self, table_name: str, *, records: Iterable[Sequence[Any]], columns: Sequence[str]
    ) -> str:
        """COPY records into a table: a third of the time that arrays and `unnest` take, there."""


class _Loaded(msgspec.Struct, gc=False):
    """What LOAD_SESSION answers."""

    lots: Lots
    reservations: list[AllocatedReservation]
    operations: list[RecordedOperation]
    source_refs: list[str]
    attempts: list[StoredAuthorization]
    holders: list[StoredAuthorization]


async def create_account(connection: RawConnection, operation: CreateAccount, outcome: str, now: datetime) -> bool:
    """Open the account; False when it exists already, in which case nothing is written."""
    created = await connection.fetchrow(statements.CREATE_ACCOUNT, operation.tenant_id, GENESIS_HASH, now)
    if created is None:
        return False
    await connection.execute(
        statements.INSERT_OPERATION, operation.request_id, operation.tenant_id, encode_content(operation), outcome, now
    )
    return True


async def find_operations(connection: RawConnection, request_ids: Sequence[UUID]) -> list[RecordedOperation]:
    """The recorded operations of these ids, of whatever tenant."""
    return [_decode_recorded(text) for [text] in await connection.fetch(statements.FIND_OPERATIONS, list(request_ids))]


async def lock_account(connection: RawConnection, tenant_id: str) -> Account | None:
    """Lock the account's row; None when there is no account."""
    row = await connection.fetchrow(statements.LOCK_ACCOUNT, tenant_id)
    return None if row is None else account_from_row(row)


async def load_session(connection: RawConnection, account: Account, requests: Sequence[Request]) -> AccountSession:
    """Read what deciding these requests needs, of an account whose row is locked.

    The lock has come first and in a statement of its own: under READ COMMITTED each statement sees what was committed
    before it began, so whatever is read after the lock is what the transaction before left.
    """
    asked = _asked_ranges(requests)
    [loaded] = await connection.fetchrow(
        statements.LOAD_SESSION,
        account.tenant_id,
        list({request.reservation_id for request in requests if hasattr(request, "reservation_id")}),
        [request.request_id for request in requests if isinstance(request, Operation)],
        [request.source_ref for request in requests if isinstance(request, GrantCredits)],
        list({attempt_id for request in requests if (attempt_id := getattr(request, "attempt_id", None))}),
        [reservation_id for reservation_id, _, _ in asked],
        [first for _, first, _ in asked],
        [behind_last for _, _, behind_last in asked],
    )
    found = _decode_loaded(loaded)
    ids = {allocated.number: allocated.reservation.reservation_id for allocated in found.reservations}
    return AccountSession(
        account,
        lots=found.lots,
        reservations=found.reservations,
        operations=found.operations,
        source_refs=found.source_refs,
        # An attempt's id may have been drawn for a reservation that nobody asks about now.
        authorizations=[
            authorization_from_stored(one, ids[one.reservation])
            for one in (*found.attempts, *found.holders)
            if one.reservation in ids
        ],
    )


def _asked_ranges(requests: Sequence[Request]) -> list[tuple[UUID, int, int]]:
    """The ranges of positions that anybody wants authorized; neighbours as one."""
    wanted: defaultdict[UUID, list[Range]] = defaultdict(list)
    for request in requests:
        if isinstance(request, Authorize):
            wanted[request.reservation_id] += request.positions
    return [(reservation_id, *one) for reservation_id, ranges in wanted.items() for one in merge(ranges)]


async def save_session(connection: RawConnection, session: AccountSession, now: datetime) -> None:
    """Write what a group has come to. The account comes before its entries: their trigger compares the two."""
    if session.entries or session.subscription_changes:
        await _save_account(connection, session.account)
    if session.entries:
        await connection.copy_records_to_table(
            "entries", records=map(entry_record, session.entries), columns=ENTRY_COLUMNS
        )
        await _save_lots(connection, session)
    await _save_authorizations(connection, session, await _save_reservations(connection, session))
    if session.recorded:
        # In id order: two accounts' groups that reuse each other's ids then wait for one another in one direction only.
        in_id_order = sorted(session.recorded, key=lambda recorded: recorded.operation.request_id.int)
        records = [operation_record(recorded, now) for recorded in in_id_order]
        await connection.copy_records_to_table("operations", records=records, columns=OPERATION_COLUMNS)
    for change in session.subscription_changes:
        await connection.execute(
            statements.INSERT_SUBSCRIPTION_EVENT,
            session.account.tenant_id,
            change.request_id,
            int(change.status),
            change.active_until,
            change.reason,
            now,
        )


async def _save_account(connection: RawConnection, account: Account) -> None:
    subscription = account.subscription
    await connection.execute(
        statements.UPDATE_ACCOUNT,
        account.tenant_id,
        account.available,
        account.reserved,
        account.captured,
        account.version,
        account.entry_hash,
        account.last_entry_at,
        None if subscription is None else int(subscription.status),
        None if subscription is None else subscription.active_until,
        None if subscription is None else subscription.reason,
        None if subscription is None else subscription.updated_at,
    )


async def _save_lots(connection: RawConnection, session: AccountSession) -> None:
    new, changed = session.new_lots, session.changed_lots
    if new:
        await connection.execute(
            statements.INSERT_LOTS,
            session.account.tenant_id,
            [entry.version for entry, _ in new],
            [entry.units for entry, _ in new],
            [available for _, available in new],
            [entry.expires_at for entry, _ in new],
            [entry.source_ref or None for entry, _ in new],
            [entry.created_at for entry, _ in new],
        )
    if changed:
        await connection.execute(
            statements.UPDATE_LOTS,
            session.account.tenant_id,
            [lot.version for lot in changed],
            [lot.available for lot in changed],
        )


async def _save_reservations(connection: RawConnection, session: AccountSession) -> dict[UUID, int]:
    """Write those that are new or have moved; the numbers of all that were asked about."""
    numbers = session.reservation_numbers
    changed = session.changed_reservations
    if not changed:
        return numbers
    reservations = [one.reservation for one in changed]
    rows = await connection.fetch(
        statements.UPSERT_RESERVATIONS,
        session.account.tenant_id,
        [reservation.reservation_id for reservation in reservations],
        [reservation.campaign_id for reservation in reservations],
        [reservation.enqueue_number for reservation in reservations],
        [int(reservation.state) for reservation in reservations],
        [reservation.units for reservation in reservations],
        [reservation.open for reservation in reservations],
        [reservation.authorized for reservation in reservations],
        [reservation.captured for reservation in reservations],
        [reservation.released for reservation in reservations],
        [reservation.refunded for reservation in reservations],
        [reservation.opened_version for reservation in reservations],
        [encode_json(one.allocations) for one in changed],
        [one.snapshot_digest for one in changed],
        [reservation.created_at for reservation in reservations],
        [reservation.closed_at for reservation in reservations],
        [one.number for one in changed],
    )
    return numbers | {row["reservation_id"]: row["number"] for row in rows}


async def _save_authorizations(connection: RawConnection, session: AccountSession, numbers: Mapping[UUID, int]) -> None:
    for changed in (session.changed_authorizations, session.new_authorizations):
        if changed:
            await connection.execute(
                statements.UPSERT_AUTHORIZATIONS,
                session.account.tenant_id,
                [one.attempt_id for one in changed],
                [numbers[one.reservation_id] for one in changed],
                [encode_positions(one.taken, numbers[one.reservation_id]) for one in changed],
                [encode_positions(one.captured_positions, numbers[one.reservation_id]) for one in changed],
                [one.units for one in changed],
                [one.authorized for one in changed],
                [one.captured for one in changed],
                [one.released for one in changed],
                [one.voided for one in changed],
                [one.created_at for one in changed],
            )


_decode_loaded: Final = msgspec.json.Decoder(_Loaded).decode
_decode_recorded: Final = msgspec.json.Decoder(RecordedOperation).decode
