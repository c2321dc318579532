"""A campaign's counters, and how far one recipient's change moves them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from bulksms_campaign.domain.recipients import Fact, RecipientStatus, status_of


@dataclass(frozen=True, slots=True)
class Counters:
    """Recipients by status: total = queued + sent + failed + unconfirmed + cancelled; `sent` contains `delivered`.

    `accepted` counts what the provider accepted whatever was reported later; `ambiguous` is the part of `unconfirmed`
    that evidence may still resolve, and a campaign does not end before it is 0.
    """

    total: int = 0
    queued: int = 0
    sent: int = 0
    failed: int = 0
    unconfirmed: int = 0
    cancelled: int = 0
    delivered: int = 0
    accepted: int = 0
    ambiguous: int = 0

    @property
    def processed(self) -> int:
        """Recipients with an outcome of sending."""
        return self.sent + self.failed

    @property
    def awaiting_report(self) -> int:
        """Accepted by the provider, and no final report yet."""
        return self.sent - self.delivered

    @property
    def is_final(self) -> bool:
        """True when no recipient waits to be sent or for evidence."""
        return self.queued == 0 and self.ambiguous == 0

    def plus(self, other: Counters, times: int = 1) -> Counters:
        """These and `times` the others, counter by counter."""
        return Counters(*(getattr(self, name) + times * getattr(other, name) for name in COUNTER_NAMES))


COUNTER_NAMES = tuple(field.name for field in fields(Counters))


def contribution(facts: Fact) -> Counters:
    """What one recipient with these facts counts for, besides the total."""
    status = status_of(facts)
    return Counters(
        queued=int(status is RecipientStatus.QUEUED),
        sent=int(status in (RecipientStatus.SENT, RecipientStatus.DELIVERED)),
        failed=int(status is RecipientStatus.FAILED),
        unconfirmed=int(status is RecipientStatus.UNCONFIRMED),
        cancelled=int(status is RecipientStatus.CANCELLED),
        delivered=int(status is RecipientStatus.DELIVERED),
        accepted=int(bool(facts & Fact.ACCEPTED)),
        ambiguous=int(status is RecipientStatus.UNCONFIRMED and not facts & Fact.UNRESOLVED),
    )


@dataclass(frozen=True, slots=True)
class Transition:
    """So many recipients went from these facts to those."""

    before: Fact
    after: Fact
    recipients: int


def movement(transitions: Iterable[Transition]) -> Counters:
    """How far the transitions move the counters."""
    moved = Counters()
    for transition in transitions:
        moved = moved.plus(contribution(transition.after), transition.recipients)
        moved = moved.plus(contribution(transition.before), -transition.recipients)
    return moved
