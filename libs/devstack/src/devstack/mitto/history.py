"""What was asked of the simulator and how it responded: the request list and the counters."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from itertools import islice
from typing import Literal

import msgspec

MAX_ENTRIES = 100_000
MAX_SECONDS = 3_600

Outcome = Literal["under way", "responded", "never responded", "reset", "response cut", "request cut", "client gone"]


class Entry(msgspec.Struct):
    """One request to Mitto's calls. Times are seconds since 1970 by the simulator's clock."""

    number: int
    connection: int
    method: str
    path: str
    arrived_at: float
    """When its first byte was read."""
    bytes: int = 0
    responded_at: float | None = None
    traffic_account: str | None = None
    messages: int = 0
    accepted: int = 0
    behaviour: str = "polite"
    status: int | None = None
    outcome: Outcome = "under way"


class Second(msgspec.Struct):
    """What arrived within one second of the simulator's clock."""

    second: int
    requests: int = 0
    messages: int = 0


class Peak(msgspec.Struct, frozen=True):
    """The most that arrived for one traffic account within any window of a given length."""

    traffic_account: str
    requests: int
    messages: int


class History:
    """The latest requests, and counters of all of them."""

    def __init__(self) -> None:
        self._next = 1
        self.clear()

    def clear(self) -> None:
        """Begin anew; request numbers go on."""
        self.entries: deque[Entry] = deque(maxlen=MAX_ENTRIES)
        self.seconds: OrderedDict[int, Second] = OrderedDict()
        self.requests = 0
        self.accepted_requests = 0
        self.accepted_messages = 0
        self.by_status: Counter[str] = Counter()
        self.by_behaviour: Counter[str] = Counter()
        self.by_outcome: Counter[str] = Counter()
        self.by_call: Counter[str] = Counter()

    def continue_after(self, number: int) -> None:
        """Number the next request higher than this: one log, one sequence."""
        self._next = max(self._next, number + 1)

    def begin(self, connection: int, method: str, path: str, arrived_at: float, size: int) -> Entry:
        """A request arrived."""
        entry = Entry(self._next, connection, method, path, arrived_at, size)
        self._next += 1
        self.requests += 1
        self.entries.append(entry)
        return entry

    def read(self, entry: Entry, call: str, traffic_account: str | None, messages: int) -> None:
        """It turned out to be this call, with so many messages."""
        entry.traffic_account, entry.messages = traffic_account, messages
        self.by_call[call] += 1
        if call == "get":
            return
        second = self.seconds.setdefault(int(entry.arrived_at), Second(int(entry.arrived_at)))
        second.requests += 1
        second.messages += messages
        if len(self.seconds) > MAX_SECONDS:
            self.seconds.popitem(last=False)

    def accept(self, entry: Entry, messages: int) -> None:
        """So many of its messages are in the accepted log."""
        entry.accepted = messages
        self.accepted_requests += 1
        self.accepted_messages += messages

    def end(self, entry: Entry, outcome: Outcome, status: int | None, responded_at: float) -> None:
        """It is over."""
        entry.outcome, entry.status, entry.responded_at = outcome, status, responded_at
        self.by_outcome[outcome] += 1
        self.by_behaviour[entry.behaviour] += 1
        if status is not None:
            self.by_status[str(status)] += 1

    def page(self, after: int, limit: int) -> list[Entry]:
        """Requests with a number above `after`, oldest first."""
        return list(islice((entry for entry in self.entries if entry.number > after), limit))

    def peaks(self, window_seconds: float) -> list[Peak]:
        """For each traffic account the busiest window of that length, sliding, by time of arrival."""
        by_account: dict[str, list[tuple[float, int]]] = {}
        for entry in self.entries:
            if entry.traffic_account is not None:
                by_account.setdefault(entry.traffic_account, []).append((entry.arrived_at, entry.messages))
        return [Peak(account, *_busiest(sorted(arrived), window_seconds)) for account, arrived in by_account.items()]


def _busiest(arrived: list[tuple[float, int]], window_seconds: float) -> tuple[int, int]:
    most_requests = most_messages = messages = start = 0
    for end, (arrived_at, count) in enumerate(arrived):
        messages += count
        while arrived[start][0] <= arrived_at - window_seconds:
            messages -= arrived[start][1]
            start += 1
        most_requests = max(most_requests, end - start + 1)
        most_messages = max(most_messages, messages)
    return most_requests, most_messages
