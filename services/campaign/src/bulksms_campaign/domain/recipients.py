"""A recipient's status: the fold of the facts reported of it, the same in any order and for any number of repeats.

Facts of the dispatcher belong to an epoch (the attempt they are of): those of the latest epoch count, so that who was
ambiguous under one epoch and is refused under a later one is FAILED and not UNCONFIRMED. That the provider accepted a
message, and what it reported of it, is true whatever the epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

UNITS: Final = 1
"""Credits that a message to one recipient costs, however many parts it has."""


class RecipientStatus(IntEnum):
    """What became of a recipient; numbered as in the contract and in the table."""

    QUEUED = 1
    SENT = 2
    DELIVERED = 3
    FAILED = 4
    UNCONFIRMED = 5
    CANCELLED = 6


class Fact(IntFlag):
    """What was reported of a recipient; the bits are stored (smallint)."""

    NONE = 0
    ACCEPTED = 1
    REPORTED_SENT = 2
    DELIVERED = 4
    NOT_DELIVERED = 8
    EXPIRED = 16
    FAILED = 32
    OPTED_OUT = 64
    CANCELLED = 128
    UNRESOLVED = 256
    AMBIGUOUS = 512
    REPORTED_OTHER = 1024
    ID_REFUSED = 2048  # accepted under an id that is somebody else's: no report can tell what became of it


# Facts that are true whatever the epoch.
LASTING = (
    Fact.ACCEPTED
    | Fact.REPORTED_SENT
    | Fact.DELIVERED
    | Fact.NOT_DELIVERED
    | Fact.EXPIRED
    | Fact.REPORTED_OTHER
    | Fact.ID_REFUSED
)

# What says that a recipient may have been sent to, and what proves that it was not.
UNSURE = Fact.AMBIGUOUS | Fact.UNRESOLVED
REFUTING = Fact.FAILED | Fact.OPTED_OUT | Fact.CANCELLED

# The first rule that matches decides. A late REPORTED_SENT never hides DELIVERED; a delivery beats a report of
# failure (providers correct themselves upwards only); what the provider accepted beats what we thought before, but for
# an id that is somebody else's, which may as well have been theirs again;
# CANCELLED and FAILED are proofs of not having been sent and beat ambiguity of the same epoch.
STATUS_RULES: tuple[tuple[Fact, RecipientStatus], ...] = (
    (Fact.DELIVERED, RecipientStatus.DELIVERED),
    (Fact.NOT_DELIVERED | Fact.EXPIRED, RecipientStatus.FAILED),
    (Fact.ID_REFUSED, RecipientStatus.UNCONFIRMED),
    (Fact.ACCEPTED | Fact.REPORTED_SENT | Fact.REPORTED_OTHER, RecipientStatus.SENT),
    (Fact.FAILED | Fact.OPTED_OUT, RecipientStatus.FAILED),
    (Fact.CANCELLED, RecipientStatus.CANCELLED),
    (Fact.UNRESOLVED | Fact.AMBIGUOUS, RecipientStatus.UNCONFIRMED),
)

# Of several dispatcher facts of one epoch the reason and description of the strongest are kept.
STRENGTH_RULES: tuple[tuple[Fact, int], ...] = (
    (Fact.FAILED, 5),
    (Fact.OPTED_OUT, 4),
    (Fact.CANCELLED, 3),
    (Fact.UNRESOLVED, 2),
    (Fact.AMBIGUOUS, 1),
)


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a recipient: the latest epoch heard of and the facts that count."""

    epoch: int = 0
    facts: Fact = Fact.NONE

    @property
    def status(self) -> RecipientStatus:
        """The status these facts make."""
        return status_of(self.facts)

    def with_fact(self, fact: Fact, epoch: int) -> Known:
        """What is known after `fact` of `epoch` was recorded: commutative, associative and idempotent."""
        if fact & LASTING:
            return Known(self.epoch, self.facts | fact)
        if epoch > self.epoch:
            return Known(epoch, self.facts & LASTING | fact)
        return Known(self.epoch, self.facts | fact) if epoch == self.epoch else self


def status_of(facts: Fact) -> RecipientStatus:
    """The status that `facts` make."""
    for mask, status in STATUS_RULES:
        if facts & mask:
            return status
    return RecipientStatus.QUEUED


def reason_of(facts: Fact, outcome_reason: str) -> str:
    """The machine reason of the status that these facts make; `outcome_reason` is the dispatcher's of a failure."""
    for mask, reason in _REASONS.get(status_of(facts), ()):
        if facts & mask:
            return outcome_reason if reason is None else reason
    return ""


def description_of(facts: Fact, outcome_description: str, report_description: str) -> str:
    """The provider's words about the status that these facts make, and about no other: of a success there are none."""
    match status_of(facts):
        case RecipientStatus.FAILED if facts & (Fact.NOT_DELIVERED | Fact.EXPIRED):
            return report_description
        case RecipientStatus.FAILED | RecipientStatus.UNCONFIRMED | RecipientStatus.CANCELLED:
            return outcome_description
    return ""


# The first fact that is among them names the reason; None: the dispatcher's own.
_REASONS: dict[RecipientStatus, tuple[tuple[Fact, str | None], ...]] = {
    RecipientStatus.FAILED: (
        (Fact.NOT_DELIVERED, "NOT_DELIVERED"),
        (Fact.EXPIRED, "EXPIRED"),
        (Fact.FAILED, None),
        (Fact.OPTED_OUT, "OPTED_OUT"),
    ),
    RecipientStatus.UNCONFIRMED: (
        (Fact.ID_REFUSED, "ID_KNOWN"),
        (Fact.UNRESOLVED, "UNRESOLVED"),
        (Fact.AMBIGUOUS, "AMBIGUOUS"),
    ),
    RecipientStatus.CANCELLED: ((Fact.CANCELLED, "CAMPAIGN_CANCELLED"),),
}
