"""The auditor: audits a small piece of an account at a time, for ever, and says so when something differs."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final

from opentelemetry import metrics

from bulksms_ledger.domain.audits import Audit
from bulksms_ledger.storage.audits import count_findings
from bulksms_ledger.use_cases.audit_round import audit_next
from servicekit import logs
from servicekit.clock import Clock
from servicekit.database import Database

_LOGGED_MAX: Final = 5

ReportHealth = Callable[[bool], Awaitable[None]]
"""Called with whether all accounts are consistent, whenever that changes."""

_log = logs.get_logger("bulksms.ledger.auditor")


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
        meter = metrics.get_meter("bulksms.ledger.auditor")
        self._audited = meter.create_counter(
            "ledger.audit.entries", unit="{entry}", description="Entries that were audited"
        )
        self._differing = meter.create_gauge(
            "ledger.audit.differing_accounts", unit="{account}", description="Accounts in which something differs"
        )
        self._abandoned = meter.create_gauge(
            "ledger.reservations.abandoned",
            unit="{reservation}",
            description="Open or authorized, and untouched for long",
        )

    async def audit_once(self) -> bool:
        """One round: a piece of one account, if any is due. True when one was."""
        audited = await audit_next(
            self._database, self._clock.now(), rest=self._rest, abandoned_after=self._abandoned_after
        )
        if audited is not None:
            self._audited.add(audited.entries_read)
            self._report(audited.before, audited.after)
        differing, abandoned = await count_findings(self._database)
        self._differing.set(differing)
        self._abandoned.set(abandoned)
        if self._reported is not (differing == 0):
            await self._report_health(differing == 0)
            self._reported = differing == 0
        return audited is not None

    def _report(self, before: Audit, after: Audit) -> None:
        """One line when something new was found, or when it is gone; not again in every round."""
        if after.differences and after.differences != before.differences:
            _log.error(
                "an account is inconsistent",
                tenant_id=after.tenant_id,
                differences=list(after.differences[:_LOGGED_MAX]),
                more=max(0, len(after.differences) - _LOGGED_MAX),
            )
        elif before.differences and not after.differences:
            _log.warning("the account is consistent again", tenant_id=after.tenant_id)
        new = [str(one) for one in after.abandoned if one not in before.abandoned]
        if new:
            _log.warning(
                "reservations have not been touched for long: close them or resolve their attempts",
                tenant_id=after.tenant_id,
                reservation_ids=new[:_LOGGED_MAX],
                more=max(0, len(new) - _LOGGED_MAX),
                untouched_days=round(self._abandoned_after / timedelta(days=1), 1),
            )
