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


# Facts that are true whatever the epoch.
LASTING = Fact.ACCEPTED | Fact.REPORTED_SENT | Fact.DELIVERED | Fact.NOT_DELIVERED | Fact.EXPIRED | Fact.REPORTED_OTHER

# The first rule that matches decides. A late REPORTED_SENT never hides DELIVERED; a delivery beats a report of
# failure (providers correct themselves upwards only); what the provider accepted beats what we thought before;
# CANCELLED and FAILED are proofs of not having been sent and beat ambiguity of the same epoch.
STATUS_RULES: tuple[tuple[Fact, RecipientStatus], ...] = (
    (Fact.DELIVERED, RecipientStatus.DELIVERED),
    (Fact.NOT_DELIVERED | Fact.EXPIRED, RecipientStatus.FAILED),
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


def reason_of(facts: Fact, reported_reason: str) -> str:
    """The machine reason of a status: what the dispatcher said, or what the report means."""
    status = status_of(facts)
    if status is RecipientStatus.FAILED and facts & (Fact.NOT_DELIVERED | Fact.EXPIRED):
        return "NOT_DELIVERED" if facts & Fact.NOT_DELIVERED else "EXPIRED"
    if status in (RecipientStatus.QUEUED, RecipientStatus.SENT, RecipientStatus.DELIVERED):
        return ""
    if status is RecipientStatus.UNCONFIRMED:
        return "UNRESOLVED" if facts & Fact.UNRESOLVED else "AMBIGUOUS"
    if status is RecipientStatus.CANCELLED:
        return "CAMPAIGN_CANCELLED"
    if facts & Fact.OPTED_OUT and not facts & Fact.FAILED:
        return "OPTED_OUT"
    return reported_reason
