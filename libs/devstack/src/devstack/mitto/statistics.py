"""The simulator's counters, as /control/stats shows them."""

from __future__ import annotations

import msgspec

from devstack.mitto.commit import LogWriter
from devstack.mitto.history import History
from devstack.mitto.records import AcceptedRequests
from devstack.mitto.reports import Reports
from devstack.mitto.rules import Director
from devstack.mitto.server import Server


class ReportStatistics(msgspec.Struct, frozen=True):
    """What became of the delivery reports; counted in reports, except `posts`."""

    sent: int
    acknowledged: int
    failed: int
    retried: int
    lost: int
    delayed: int
    duplicated: int
    reordered: int
    wrong_secret: int
    no_secret: int
    unknown_id: int
    older_names: int
    posts: int
    by_http_status: dict[str, int]
    pending_requests: int
    """Accepted requests that still owe reports."""
    idle: bool
    """Nothing is owed and nothing is under way."""
    paused: bool
    connections: int


class Statistics(msgspec.Struct, frozen=True):
    """Response of GET /control/stats."""

    requests: int
    by_call: dict[str, int]
    by_status: dict[str, int]
    by_outcome: dict[str, int]
    by_behaviour: dict[str, int]
    accepted_requests: int
    accepted_messages: int
    commits: int
    log_bytes: int
    """Of the accepted log, from its beginning: where the next record starts."""
    forgotten_requests: int
    open_connections: int
    connections_opened: int
    script_steps_remaining: int
    reports: ReportStatistics


def collect(
    history: History,
    reports: Reports,
    requests: AcceptedRequests,
    log: LogWriter,
    server: Server,
    director: Director,
) -> Statistics:
    """The counters as they are now."""
    return Statistics(
        requests=history.requests,
        by_call=history.by_call,
        by_status=history.by_status,
        by_outcome=history.by_outcome,
        by_behaviour=history.by_behaviour,
        accepted_requests=history.accepted_requests,
        accepted_messages=history.accepted_messages,
        commits=log.commits,
        log_bytes=log.end,
        forgotten_requests=requests.forgotten_requests,
        open_connections=len(server.connections),
        connections_opened=server.connections_opened,
        script_steps_remaining=director.remaining_steps(),
        reports=_collect_reports(reports),
    )


def _collect_reports(reports: Reports) -> ReportStatistics:
    counts = reports.results.counts
    return ReportStatistics(
        sent=counts["sent"],
        acknowledged=counts["acknowledged"],
        failed=counts["failed"],
        retried=counts["retried"],
        lost=counts["lost"],
        delayed=counts["delayed"],
        duplicated=counts["duplicated"],
        reordered=counts["reordered"],
        wrong_secret=counts["wrong_secret"],
        no_secret=counts["no_secret"],
        unknown_id=counts["unknown_id"],
        older_names=counts["older_names"],
        posts=counts["posts"],
        by_http_status=reports.results.by_http_status,
        pending_requests=reports.pending_requests,
        idle=reports.idle,
        paused=reports.paused,
        connections=reports.connections,
    )
