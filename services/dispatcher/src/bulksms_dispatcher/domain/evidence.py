"""Evidence: reports for message ids nobody knows, and when one of them proves whom a message was sent to."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from bulksms_dispatcher.domain.batches import BatchKey
from bulksms_dispatcher.domain.messages import MessageStatus
from bulksms_dispatcher.domain.protocol import BatchState
from bulksms_dispatcher.domain.provider_records import ProviderRecord
from bulksms_dispatcher.domain.unresolved import Unresolved

__all__ = [
    "FINAL_STATUSES",
    "MAX_ATTEMPTS",
    "NEVER_GIVE_UP",
    "Candidate",
    "EvidenceState",
    "Inconclusive",
    "Match",
    "OpenReport",
    "find_match",
]

MAX_ATTEMPTS = 12
NEVER_GIVE_UP = sys.maxsize
"""Attempts of what is no fault of the report's."""
FINAL_STATUSES = frozenset({MessageStatus.DELIVERED, MessageStatus.FAILED})
"""What reports can say that nothing changes any more."""


class EvidenceState(IntEnum):
    """Where a report for an unknown id is; the numbers are stored."""

    OPEN = 1
    MATCHED = 2
    UNMATCHED = 3


@dataclass(frozen=True, slots=True)
class OpenReport:
    """A report to be looked into."""

    provider_message_id: str
    attempts: int
    provider_record: ProviderRecord | None
    """What the provider said of it, when it was asked before."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A recipient, without an id yet, whom the message of a report may be to."""

    batch: Unresolved
    position: int
    in_window: bool
    """False when the batch was armed too long before the message."""


@dataclass(frozen=True, slots=True)
class Match:
    """A report, and the one recipient it can be of."""

    provider_message_id: str
    batch: BatchKey
    position: int


@dataclass(frozen=True, slots=True)
class Inconclusive:
    """Why a report proves nothing, and whether asking again may help."""

    reason: str
    attempts: int = 1
    """After so many it is given up."""


def find_match(
    message_id: str, indistinguishable: Mapping[str, MessageStatus], candidates: Sequence[Candidate], *, all_seen: bool
) -> Match | Inconclusive:
    """Whom the message `message_id` was sent to, if it can be only one.

    `indistinguishable` are the ids of all open reports that fit the same candidates, in the order of their messages,
    and what each report says. One message and one candidate, or several of both that cannot be distinguished: so many
    messages, and just so many recipients who were each sent one at most, so each was sent one. They get their ids in
    the order of sending; unless the reports say different outcomes, for one might be told another's.
    """
    if any(candidate.batch.state is BatchState.ARMED for candidate in candidates):
        return Inconclusive("STILL_SENDING", attempts=MAX_ATTEMPTS)
    if len(indistinguishable) != len(candidates) or not all_seen:
        return Inconclusive("NOT_UNIQUE", attempts=MAX_ATTEMPTS)
    if not all(candidate.in_window for candidate in candidates):
        return Inconclusive("OUTSIDE_WINDOW", attempts=MAX_ATTEMPTS)
    if message_id not in indistinguishable or len(FINAL_STATUSES.intersection(indistinguishable.values())) > 1:
        return Inconclusive("NOT_UNIQUE", attempts=MAX_ATTEMPTS)
    candidate = candidates[list(indistinguishable).index(message_id)]
    return Match(message_id, candidate.batch.key, candidate.position)
