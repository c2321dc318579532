"""One soak on a running stack, from the first campaign to the verdict."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass

from benchmarks.soak.accounts import all_ended, differences
from benchmarks.soak.traffic import DELIVERY, REPORTS, Pace, Traffic
from benchmarks.soak.watch import Growth, Watch, backlog, errors_logged
from bulksms_client import Client
from devstack.eventually import eventually_blocking
from devstack.mitto.client import Simulator
from devstack.mitto.statistics import Statistics
from devstack.stack import Stack

__all__ = ["ENVIRONMENT", "REPLICAS", "Soaked", "soak"]

REPLICAS = {"campaign": 2, "dispatcher": 2, "ledger": 2, "dlr-gateway": 2}
ENVIRONMENT = {
    "SMS_BATCH_SIZE": "250",
    "LOG_FORMAT": "json",
    # Late enough for the reports to come first, soon enough for a soak to end.
    "STATUS_REFRESH_AFTER_SECONDS": "4,8,12",
}

# Each dispatcher keeps the segment it writes to.
_AT_REST = {"journal segments": REPLICAS["dispatcher"]}
_END_SECONDS = 180.0
_POLL_SECONDS = 0.25
# Below that a process is still warming up: allocators, caches, pools of connections that open on demand.
_JUDGED_FROM_SECONDS = 300.0
_MAX_GROWTH = 0.15
# The simulator and the databases remember what they were given: that is what they are for.
_NOT_JUDGED = ("simulator", "postgres", "valkey", "spans")


@dataclass(frozen=True, slots=True)
class Soaked:
    """What was sent, what it left behind, and everything that is wrong with that."""

    seconds: float
    campaigns: int
    single_messages: int
    provider: Statistics
    growth: list[Growth]
    most_waiting: Mapping[str, int]
    left: Mapping[str, int]
    errors: Mapping[str, int]
    problems: list[str]

    def as_document(self) -> dict[str, object]:
        """For JSON."""
        return {
            "seconds": round(self.seconds, 1),
            "campaigns": self.campaigns,
            "single_messages": self.single_messages,
            "messages_accepted": self.provider.accepted_messages,
            "reports_sent": self.provider.reports.sent,
            "reports_lost": self.provider.reports.lost,
            "calls": self.provider.by_call,
            "memory": [asdict(one) | {"growth": round(one.share, 4)} for one in self.growth],
            "most_waiting": dict(self.most_waiting),
            "left_at_the_end": dict(self.left),
            "errors_logged": dict(self.errors),
            "problems": self.problems,
        }


def soak(stack: Stack, pace: Pace) -> Soaked:
    """Send for a while, wait until everything has ended, and look."""
    started = time.monotonic()
    watch = Watch(stack, pace.seconds)
    with (
        Simulator(stack.simulator.address, stack.simulator.log_path) as simulator,
        Client(
            campaign=stack.address("campaign"),
            ledger=stack.address("ledger"),
            dispatcher=stack.address("dispatcher"),
            tenant_id=f"soak-{secrets.token_hex(4)}",
            timeout=30,
        ) as client,
    ):
        simulator.set_behaviour(delivery=DELIVERY, reports=REPORTS)
        traffic = Traffic(client, pace)
        traffic.prepare()
        with watch.running():
            traffic.run()
        problems = []
        for condition, what in (
            (all_ended(client, traffic), "everything sent to come to its end"),
            (lambda: not _above_rest(backlog(stack)), "queues and outboxes to be emptied"),
        ):
            try:
                eventually_blocking(condition, _END_SECONDS, what, every_seconds=_POLL_SECONDS)
            except TimeoutError as late:
                problems.append(str(late))
        seconds, left, errors = time.monotonic() - started, backlog(stack), errors_logged(stack)
        problems += differences(client, traffic, stack.simulator.log_path)
        problems += [f"left behind: {count} {name}" for name, count in _above_rest(left).items()]
        problems += [f"logged {count} times: {event}" for event, count in errors.items()]
        problems += [f"ended without being asked to: {crash}" for crash in stack.crashes]
        growth = watch.growth()
        if pace.seconds >= _JUDGED_FROM_SECONDS:
            problems += _grown(growth)
        return Soaked(
            seconds,
            len(traffic.campaigns),
            len(traffic.singles),
            simulator.stats(),
            growth,
            watch.most_waiting,
            left,
            errors,
            problems,
        )


def _above_rest(counts: Mapping[str, int]) -> dict[str, int]:
    return {name: count for name, count in counts.items() if count > _AT_REST.get(name, 0)}


def _grown(growth: list[Growth]) -> Iterator[str]:
    for one in growth:
        if one.share > _MAX_GROWTH and not one.process.startswith(_NOT_JUDGED):
            yield f"{one.process} grew from {one.warm_mb:.0f} to {one.end_mb:.0f} MB, {one.mb_per_hour:.0f} MB an hour"
