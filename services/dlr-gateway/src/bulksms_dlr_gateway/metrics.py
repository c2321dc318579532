"""The gateway's instruments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Observation

from bulksms_dlr_gateway.domain.entries import SpoolSizes

__all__ = ["ForwardingMetrics", "HttpMetrics", "commit_duration", "observe_spool"]


class HttpMetrics:
    """What comes in, counted in dictionaries and read out when asked: an instrument costs 15 µs a request."""

    def __init__(self) -> None:
        self._received: Counter[str] = Counter()
        self._rejected: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        meter = metrics.get_meter("bulksms.dlr_gateway.webhook")
        for name, unit, description, key, counts in (
            ("dlr.reports.received", "{report}", "Reports stored durably, by status", "status", self._received),
            ("dlr.reports.rejected", "{report}", "Elements that were no report", "reason", self._rejected),
            ("dlr.requests.refused", "{request}", "Requests refused as a whole", "reason", self._refused),
        ):
            meter.create_observable_counter(name, [_observer(key, counts)], unit=unit, description=description)

    def stored(self, statuses: Iterable[str], reasons: Iterable[str]) -> None:
        """Reports of these statuses, and rejected elements for these reasons, are on disk."""
        for status in statuses:
            self._received[status] += 1
        for reason in reasons:
            self._rejected[reason] += 1

    def refused(self, reason: str) -> None:
        """A request was refused."""
        self._refused[reason] += 1


class ForwardingMetrics:
    """What goes on."""

    def __init__(self) -> None:
        meter = metrics.get_meter("bulksms.dlr_gateway.forwarding")
        self.forwarded = meter.create_counter(
            "dlr.reports.forwarded", unit="{report}", description="Reports another service took, by peer"
        )
        self.unknown = meter.create_counter(
            "dlr.reports.unknown", unit="{report}", description="Times a report was offered and not known, by lane"
        )
        self.quarantined = meter.create_counter(
            "dlr.reports.quarantined", unit="{report}", description="Reports given up, by reason"
        )
        self.failures = meter.create_counter(
            "dlr.forward.failures", unit="{call}", description="Forwarding calls that failed, by peer and reason"
        )
        self.age = meter.create_histogram(
            "dlr.forward.age", unit="s", description="Age of the oldest report of a call that was taken"
        )


def commit_duration() -> metrics.Histogram:
    """How long the spool takes to have a group of requests on disk."""
    return metrics.get_meter("bulksms.dlr_gateway.spool").create_histogram(
        "dlr.spool.commit.duration", unit="s", description="Time to write and sync what arrived together"
    )


def observe_spool(sizes: Callable[[], SpoolSizes], lag: Callable[[], timedelta]) -> None:
    """Gauges of what the spool holds, as last measured."""

    def depth(_options: CallbackOptions) -> Iterable[Observation]:
        now = sizes()
        yield Observation(now.fresh, {"table": "fresh"})
        yield Observation(now.waiting, {"table": "waiting"})
        yield Observation(now.quarantined, {"table": "quarantine"})

    def used(_options: CallbackOptions) -> Iterable[Observation]:
        yield Observation(sizes().used_bytes)

    def dropped(_options: CallbackOptions) -> Iterable[Observation]:
        yield Observation(sizes().quarantine_dropped)

    def age(_options: CallbackOptions) -> Iterable[Observation]:
        yield Observation(lag().total_seconds())

    meter = metrics.get_meter("bulksms.dlr_gateway.spool")
    meter.create_observable_gauge("dlr.spool.depth", [depth], unit="{report}", description="Rows of the spool")
    meter.create_observable_gauge("dlr.spool.used", [used], unit="By", description="Bytes in use in the spool")
    meter.create_observable_counter(
        "dlr.quarantine.dropped", [dropped], unit="{report}", description="Dropped from the quarantine, ever"
    )
    meter.create_observable_gauge("dlr.lag", [age], unit="s", description="Age of the oldest report not forwarded")


def _observer(key: str, counts: Mapping[str, int]) -> Callable[[CallbackOptions], Iterable[Observation]]:
    return lambda _options: [Observation(count, {key: name}) for name, count in list(counts.items())]
