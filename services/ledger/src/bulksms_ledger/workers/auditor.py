"""The auditor: checks that everything holds, a small piece at a time, for ever, and says so when something does not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final

import msgspec
from opentelemetry import metrics
from sqlalchemy.ext.asyncio import AsyncConnection

from bulksms_ledger.audits import Audit, Examiner, Totals, touched_reservations
from bulksms_ledger.storage import audits as storage
from bulksms_ledger.storage.verifying import Snapshot
from servicekit import logs
from servicekit.clock import Clock
from servicekit.database import Database

# Entries of one account in one round: 3 to 6 ms of work, which at one round a second is less than 1 % of a core.
PIECE: Final = 128
_TOLD_MAX: Final = 5

ReportHealth = Callable[[bool], Awaitable[None]]
"""Told whether everything holds, whenever that changes."""

_log = logs.get_logger("bulksms_ledger.auditor")


class Auditor:
    """Audits the account whose turn it is; the replicas share the turns, and each reports what any of them found.

    Nothing is ever repaired or expired here: a reservation that looks abandoned may have a batch under way.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        report_health: ReportHealth,
        *,
        rest: timedelta = timedelta(seconds=5),
        abandoned_after: timedelta = timedelta(days=7),
    ) -> None:
        self._database = database
        self._clock = clock
        self._report_health = report_health
        self._rest = rest
        self._abandoned_after = abandoned_after
        self._reported: bool | None = None
        meter = metrics.get_meter("bulksms_ledger")
        self._audited = meter.create_counter(
            "ledger.audit.entries", unit="{entry}", description="Entries that were audited"
        )
        self._differing = meter.create_gauge(
            "ledger.audit.differing_accounts", unit="{account}", description="Accounts in which something does not hold"
        )
        self._abandoned = meter.create_gauge(
            "ledger.reservations.abandoned", unit="{reservation}", description="Open and untouched for long"
        )

    async def audit_once(self) -> bool:
        """One round: a piece of one account, if any is due. True when one was."""
        audited = await self._database.run_transaction(self._audit)
        if audited is not None:
            before, after = audited
            self._tell(before, after)
        differing, abandoned = await storage.count_findings(self._database)
        self._differing.set(differing)
        self._abandoned.set(abandoned)
        if self._reported is not (differing == 0):
            await self._report_health(differing == 0)
            self._reported = differing == 0
        return audited is not None

    async def _audit(self, connection: AsyncConnection) -> tuple[Audit, Audit] | None:
        now = self._clock.now()
        before = await storage.claim(connection, now - self._rest)
        if before is None:
            return None
        examiner = Examiner()
        newest, patrol = await self._examine(connection, before, examiner)
        if examiner.differences:
            newest, patrol = before.newest_version, before.patrol_version
        after = msgspec.structs.replace(
            before,
            newest_version=newest,
            patrol_version=patrol,
            differences=tuple(examiner.differences),
            abandoned=await storage.abandoned(connection, before.tenant_id, now - self._abandoned_after),
        )
        # Who has more to read is due again at once, behind those who have waited for longer.
        in_the_middle = newest - before.newest_version == PIECE or patrol > before.patrol_version
        await storage.save(connection, after, now - self._rest if in_the_middle else now)
        return before, after

    async def _examine(self, connection: AsyncConnection, audit: Audit, examiner: Examiner) -> tuple[int, int]:
        """Look at new entries, or when there are none at old ones, and at the sums; where the cursors go from here."""
        tenant_id, snapshot = audit.tenant_id, Snapshot(connection, audit.tenant_id)
        account = await snapshot.account()
        if account is None:
            raise LookupError(f"the audit of {tenant_id} has no account")
        newest = await self._read(connection, snapshot, audit.newest_version, examiner)
        patrol, captured = audit.patrol_version, None
        if newest == audit.newest_version:  # nothing is new
            examiner.compare_account(account)
            # The patrol has a chain of its own: where it stands has nothing to do with the account's last entry.
            patroller = Examiner()
            patrol = await self._read(connection, snapshot, audit.patrol_version, patroller)
            examiner.differences += patroller.differences
            if patrol >= newest:
                patrol, captured = 0, await storage.captured(connection, tenant_id)
        totals = await storage.totals(connection, tenant_id)
        examiner.compare_totals(account, Totals(totals.in_lots, totals.held, captured))
        return newest, patrol

    async def _read(self, connection: AsyncConnection, snapshot: Snapshot, after: int, examiner: Examiner) -> int:
        """Audit the entries behind a version and the reservations they are about; the version reached."""
        previous = await snapshot.entry(after) if after else None
        piece = await snapshot.entries(after, PIECE)
        examiner.read(after, previous, piece)
        if touched := touched_reservations(piece):
            stored = await snapshot.holds(touched)
            moved = await storage.movements(connection, snapshot.tenant_id, touched)
            for reservation_id, its_movements in moved.items():
                if its_movements.entries <= storage.MOVEMENTS_MAX:
                    examiner.compare_reservation(reservation_id, stored.get(reservation_id), its_movements)
        self._audited.add(len(piece))
        return piece[-1][0].version if piece else after

    def _tell(self, before: Audit, after: Audit) -> None:
        """One line when something new was found, or when it is gone; not again at every look."""
        if after.differences and after.differences != before.differences:
            _log.error(
                "the ledger does not hold",
                tenant_id=after.tenant_id,
                differences=list(after.differences[:_TOLD_MAX]),
                more=max(0, len(after.differences) - _TOLD_MAX),
            )
        elif before.differences and not after.differences:
            _log.warning("the ledger holds again", tenant_id=after.tenant_id)
        new = [str(one) for one in after.abandoned if one not in before.abandoned]
        if new:
            _log.warning(
                "open reservations have not been touched for long: close them, or find out why nobody does",
                tenant_id=after.tenant_id,
                reservation_ids=new[:_TOLD_MAX],
                more=max(0, len(new) - _TOLD_MAX),
                untouched_days=round(self._abandoned_after / timedelta(days=1), 1),
            )
