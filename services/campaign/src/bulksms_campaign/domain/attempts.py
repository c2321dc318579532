"""Attempts of a batch: a dispatcher whose database was set back repeats epochs, and proof is of one attempt only.

Of a batch one attempt is ever reported, as often as its outcome changes. Another one of the same batch means that the
dispatcher has forgotten the first: it comes later, whatever its epoch says, and proves nothing about the first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple
from uuid import UUID

from bulksms_campaign.domain.recipients import UNSURE
from bulksms_campaign.domain.results import OutcomeGroup


class ReportedAttempt(NamedTuple):
    """A batch's attempt reported last, without an id where nothing was armed, and the last one that may have sent."""

    epoch: int
    attempt_id: UUID | None
    unsure_attempt_id: UUID | None

    @classmethod
    def of(cls, epoch: int, attempt_id: UUID | None, groups: Iterable[OutcomeGroup]) -> ReportedAttempt:
        """One as it is reported."""
        unsure = any(group.fact & UNSURE for group in groups)
        return cls(epoch, attempt_id, attempt_id if unsure else None)

    def following(self, before: ReportedAttempt | None) -> ReportedAttempt:
        """This one as it counts after `before`."""
        if before is None or before.attempt_id is None:
            return self
        unsure = self.unsure_attempt_id or before.unsure_attempt_id
        if self.attempt_id is None:
            return ReportedAttempt(max(self.epoch, before.epoch), before.attempt_id, unsure)
        epoch = before.epoch if self.attempt_id == before.attempt_id else before.epoch + 1
        return ReportedAttempt(max(self.epoch, epoch), self.attempt_id, unsure)

    def is_foreign_to(self, before: ReportedAttempt | None) -> bool:
        """Is it another one than the attempt that may have sent? Then it proves nothing about whoever is unsure."""
        return before is not None and before.unsure_attempt_id not in {None, self.attempt_id}
