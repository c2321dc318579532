"""What is done with reports once they were offered: forgotten, put away until due, or given up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum, auto

import msgspec

from bulksms_dlr_gateway.domain.entries import Entry, SpooledEntry
from bulksms_dlr_gateway.domain.retry_schedule import RetrySchedule

__all__ = ["Disposition", "PeerReply", "disposition_of"]

_MICROSECOND = timedelta(microseconds=1)
# A peer that breaks on a report is a bug to be mended there: ask now and then, for as long as mending may take.
_BREAKING_PAUSE = timedelta(minutes=1)
_BREAKING_HORIZON = timedelta(days=1)


class PeerReply(Enum):
    """What came of offering one report."""

    TAKEN = auto()
    UNKNOWN = auto()
    UNASKED = auto()  # campaign does not know it, and the dispatcher, who may, is away
    REFUSED = auto()  # the peer finds the report itself wrong; no repeat will help
    BREAKS = auto()  # the peer fails with an error of its own whenever this report is in the batch


@dataclass(frozen=True, slots=True)
class Disposition:
    """What became of entries taken from the spool: all of `ids` leave their table, some for another one."""

    ids: Sequence[int]
    waiting: Sequence[tuple[int, Entry]] = ()
    """To be offered again: due time in microseconds since 1970, and the entry."""
    quarantined: Sequence[tuple[str, Entry]] = ()
    """Given up: reason and entry."""


def disposition_of(
    offered: Sequence[SpooledEntry], replies: Sequence[PeerReply], schedule: RetrySchedule, now: int
) -> Disposition:
    """Decide on each offered entry; `now` in microseconds since 1970."""
    waiting: list[tuple[int, Entry]] = []
    quarantined: list[tuple[str, Entry]] = []
    for row, reply in zip(offered, replies, strict=True):
        if reply is PeerReply.TAKEN:
            continue
        entry = _asked_again(row.entry, reply, now)
        reason = _reason_to_give_up(entry, reply, schedule, now)
        if reason:
            quarantined.append((reason, entry))
        else:
            pause = _BREAKING_PAUSE if reply is PeerReply.BREAKS else schedule.due_after(entry.attempts)
            waiting.append((now + pause // _MICROSECOND, entry))
    return Disposition([row.id for row in offered], waiting, quarantined)


def _asked_again(entry: Entry, reply: PeerReply, now: int) -> Entry:
    unknown_since = entry.unknown_since
    if unknown_since is None and reply in {PeerReply.UNKNOWN, PeerReply.UNASKED}:
        unknown_since = now
    return msgspec.structs.replace(entry, attempts=entry.attempts + 1, unknown_since=unknown_since)


def _reason_to_give_up(entry: Entry, reply: PeerReply, schedule: RetrySchedule, now: int) -> str:
    if reply is PeerReply.REFUSED:
        return "REFUSED"
    if reply is PeerReply.UNKNOWN and schedule.is_over(entry.attempts):
        return "UNKNOWN_MESSAGE"
    if reply is PeerReply.BREAKS and now - entry.received_at >= _BREAKING_HORIZON // _MICROSECOND:
        return "PEER_BREAKS"
    return ""
