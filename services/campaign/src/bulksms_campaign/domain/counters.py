"""A campaign's counters, and how far one recipient's change moves them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from bulksms_campaign.domain.recipients import Fact, RecipientStatus, status_of


@dataclass(frozen=True, slots=True)
class Counters:
    """Recipients by status: total = queued + sent + failed + unconfirmed + cancelled; `sent` contains `delivered`.

    A person counts once, by the latest enqueue that sent to it. `accepted` counts every message that the provider
    accepted, whatever was reported later and whoever was sent to again, and `accepted_units` the credits for them.
    `ambiguous` is the part of `unconfirmed` that evidence may still resolve, also after the campaign has ended.
    """

    total: int = 0
    queued: int = 0
    sent: int = 0
    failed: int = 0
    unconfirmed: int = 0
    cancelled: int = 0
    delivered: int = 0
    accepted: int = 0
    accepted_units: int = 0
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
    def all_tried(self) -> bool:
        """True when nobody waits to be sent to any more, whether or not everybody's outcome is known."""
        return self.queued == 0

    def plus(self, other: Counters, times: int = 1) -> Counters:
        """These and `times` the others, counter by counter."""
        return Counters(*(getattr(self, name) + times * getattr(other, name) for name in COUNTER_NAMES))


COUNTER_NAMES = tuple(field.name for field in fields(Counters))


def counted(facts: Fact, recipients: int, units: int, *, superseded: bool = False) -> Counters:
    """What so many recipients of one enqueue with these facts count for; `units` are their credits together.

    Those that a later enqueue sends to again are `superseded`: only what was accepted of them still counts.
    """
    accepted = bool(facts & Fact.ACCEPTED)
    counters = Counters(accepted=recipients * accepted, accepted_units=units * accepted)
    return counters if superseded else counters.plus(contribution(facts), recipients)


def contribution(facts: Fact) -> Counters:
    """What one person whose latest enqueue has these facts counts for, besides what was accepted."""
    status = status_of(facts)
    return Counters(
        total=1,
        queued=int(status is RecipientStatus.QUEUED),
        sent=int(status in (RecipientStatus.SENT, RecipientStatus.DELIVERED)),
        failed=int(status is RecipientStatus.FAILED),
        unconfirmed=int(status is RecipientStatus.UNCONFIRMED),
        cancelled=int(status is RecipientStatus.CANCELLED),
        delivered=int(status is RecipientStatus.DELIVERED),
        ambiguous=int(status is RecipientStatus.UNCONFIRMED and not facts & (Fact.UNRESOLVED | Fact.ID_REFUSED)),
    )


@dataclass(frozen=True, slots=True)
class Transition:
    """So many recipients of one enqueue, with so many credits, went from these facts to those."""

    before: Fact
    after: Fact
    recipients: int
    units: int
    superseded: bool = False


def movement(transitions: Iterable[Transition]) -> Counters:
    """How far the transitions move the counters."""
    moved = Counters()
    for change in transitions:
        for facts, sign in ((change.after, 1), (change.before, -1)):
            part = counted(facts, change.recipients, change.units, superseded=change.superseded)
            moved = moved.plus(part, sign)
    return moved
