"""Audit round: a piece of the account whose turn it is, looked at in one transaction."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_ledger.domain.audits import Audit, Examiner, Totals, touched_reservations
from bulksms_ledger.storage import audits as storage
from bulksms_ledger.storage.snapshot import Snapshot
from servicekit.database import Database

# Entries of one account in one round: 3 to 6 ms of work, which at one round a second is less than 1 % of a core.
PIECE: Final = 128
# Attempts of one reservation that are summed up at most; verification and `rebuild` sum up all.
ATTEMPTS_MAX: Final = 2_000


@dataclass(frozen=True, slots=True)
class AuditRound:
    """What one round found: the account's audit before and after it, and how many entries it read."""

    before: Audit
    after: Audit
    entries_read: int


async def audit_next(
    database: Database, now: datetime, *, rest: timedelta, abandoned_after: timedelta
) -> AuditRound | None:
    """Audit a piece of the account that has waited longest; None when none has rested for long enough."""

    async def audit(connection: AsyncConnection) -> AuditRound | None:
        before = await storage.claim(connection, now - rest)
        if before is None:
            return None
        piece = _Piece(connection, before)
        newest, patrol = await piece.examine()
        after = msgspec.structs.replace(
            before,
            newest_version=newest,
            patrol_version=patrol,
            differences=tuple(piece.differences),
            abandoned=await storage.abandoned(connection, before.tenant_id, now - abandoned_after),
        )
        # Who has more to read is due again at once, behind those who have waited for longer.
        in_the_middle = newest - before.newest_version == PIECE or patrol > before.patrol_version
        await storage.save(connection, after, now - rest if in_the_middle else now)
        return AuditRound(before, after, piece.entries_read)

    return await database.run_transaction(audit)


class _Piece:
    """New entries of an account, or when there are none old ones, and the sums."""

    def __init__(self, connection: AsyncConnection, audit: Audit) -> None:
        self._connection = connection
        self._audit = audit
        self._snapshot = Snapshot(connection, audit.tenant_id)
        self.differences: list[str] = []
        self.entries_read = 0

    async def examine(self) -> tuple[int, int]:
        """Where both cursors go from here: no further, when something differs."""
        audit, snapshot = self._audit, self._snapshot
        account = await snapshot.account()
        if account is None:
            raise LookupError(f"the audit of {audit.tenant_id} has no account")
        examiner = Examiner()
        newest = await self._read(audit.newest_version, examiner)
        patrol, captured = audit.patrol_version, None
        patroller = Examiner()  # with a chain of its own: where the patrol stands has nothing to do with the last entry
        if newest == audit.newest_version:  # nothing is new
            examiner.compare_account(account)
            patrol = await self._read(audit.patrol_version, patroller)
            if patrol >= newest:
                patrol, captured = 0, await storage.captured(self._connection, audit.tenant_id)
        totals = await storage.totals(self._connection, audit.tenant_id)
        examiner.compare_totals(account, Totals(totals.in_lots, totals.reserved, captured))
        self.differences = examiner.differences + patroller.differences
        if self.differences:
            return audit.newest_version, audit.patrol_version
        return newest, patrol

    async def _read(self, after: int, examiner: Examiner) -> int:
        """Audit the entries behind a version and the reservations they are about; the version reached."""
        snapshot = self._snapshot
        previous = await snapshot.entry(after) if after else None
        piece = await snapshot.entries(after, PIECE)
        examiner.read(after, previous, piece)
        if touched := touched_reservations(piece):
            stored = await snapshot.reservations(touched)
            moved = await storage.movements(self._connection, snapshot.tenant_id, touched)
            for reservation_id, its_movements in moved.items():
                if its_movements.entries <= storage.MOVEMENTS_MAX:
                    examiner.compare_reservation(reservation_id, stored.get(reservation_id), its_movements)
            for reservation_id, totals in (await snapshot.attempt_totals(stored, at_most=ATTEMPTS_MAX)).items():
                if totals.attempts <= ATTEMPTS_MAX:
                    examiner.compare_attempts(stored[reservation_id], totals)
        self.entries_read += len(piece)
        return piece[-1][0].version if piece else after
