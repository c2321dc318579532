"""Delivery evidence: reports the campaign service does not know, of single messages or of unresolved batches."""

from __future__ import annotations

from collections.abc import Sequence

from bulksms_dispatcher.domain.messages import DeliveryEvidence, fold_evidence
from bulksms_dispatcher.storage import messages
from bulksms_dispatcher.use_cases.evidence import EvidenceSearch
from servicekit.database import Database

__all__ = ["DeliveryEvidenceIntake"]


class DeliveryEvidenceIntake:
    """What is a single message's is recorded; the rest is noted, to be looked into."""

    def __init__(self, database: Database, search: EvidenceSearch) -> None:
        self._database = database
        self._search = search

    async def record(self, reports: Sequence[DeliveryEvidence]) -> set[str]:
        """The provider's ids that are known here.

        The others stay unknown for the gateway: once one has resolved a recipient, campaign knows its id, and the
        gateway's next round delivers the status.
        """
        if not reports:
            return set()
        async with self._database.begin() as connection:
            known = await messages.record_reports(connection, fold_evidence(reports))
        await self._search.note([report for report in reports if report.provider_message_id not in known])
        return known
