"""Shows a campaign's progress: a live bar in a terminal, plain lines elsewhere, JSON lines for programs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from bulksms.campaign.v1 import campaign_pb2 as pb
from bulksms.types.v1 import types_pb2
from bulksms_client.cli.output import Output
from bulksms_client.cli.plain import short_names

__all__ = ["show_progress"]


def show_progress(
    output: Output,
    statuses: Iterable[pb.CampaignStatus],
    *,
    interval_seconds: float,
    monotonic: Callable[[], float] = time.monotonic,
) -> None:
    """Show every status until there are no more, then the outcome."""
    last: pb.CampaignStatus | None = None
    if output.as_json:
        for status in statuses:
            output.line(status)
        return
    terminal = output.people.is_terminal
    with _Bar(output.people) if terminal else _Lines(output.people, interval_seconds, monotonic) as display:
        for status in statuses:
            display.show(status)
            last = status
    if last is not None:
        output.note(f"{_state(last)}: {_figures(last.counters)}")


class _Bar:
    """Two bars: what was processed, and what was reported as delivered or failed."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>5.1f} %"),
            TextColumn("{task.fields[figures]}"),
            console=console,
        )
        self._processed = self._progress.add_task("…", total=None, figures="")
        self._reported = self._progress.add_task("reports", total=None, figures="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, status: pb.CampaignStatus) -> None:
        counters = status.counters
        self._progress.update(
            self._processed,
            description=_state(status),
            total=counters.total,
            completed=_done(counters),
            figures=f"sent {counters.sent:,}  failed {counters.failed:,}{_others(counters)}  {_going(status)}",
        )
        self._progress.update(
            self._reported,
            total=counters.accepted,
            completed=counters.accepted - counters.awaiting_report,
            figures=f"delivered {counters.delivered:,}  awaiting {counters.awaiting_report:,}",
        )


class _Lines:
    """A line when the state changes, or what holds the campaign, else at intervals."""

    def __init__(self, console: Console, interval_seconds: float, monotonic: Callable[[], float]) -> None:
        self._console = console
        self._interval_seconds = interval_seconds
        self._monotonic = monotonic
        self._said: tuple[str, int] | None = None
        self._next_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def show(self, status: pb.CampaignStatus) -> None:
        now = self._monotonic()
        said = _state(status), status.hold.reason
        if said == self._said and now < self._next_at:
            return
        self._said, self._next_at = said, now + self._interval_seconds
        counters = status.counters
        done = f"{_done(counters):,}/{counters.total:,}"
        self._console.print(
            f"{_state(status):<10} {done:>15}  {_figures(counters)}  {_going(status)}".rstrip(),
            soft_wrap=True,
        )


def _state(status: pb.CampaignStatus) -> str:
    return short_names(pb.CampaignState.DESCRIPTOR).get(status.state, str(status.state))


def _done(counters: pb.CampaignCounters) -> int:
    return counters.total - counters.queued


def _figures(counters: pb.CampaignCounters) -> str:
    figures = f"sent {counters.sent:,}  failed {counters.failed:,}{_others(counters)}  delivered {counters.delivered:,}"
    return f"{figures}  awaiting report {counters.awaiting_report:,}" if counters.awaiting_report else figures


def _others(counters: pb.CampaignCounters) -> str:
    """Rare outcomes are shown when there are any."""
    shown = f"  unconfirmed {counters.unconfirmed:,}" if counters.unconfirmed else ""
    return f"{shown}  cancelled {counters.cancelled:,}" if counters.cancelled else shown


def _going(status: pb.CampaignStatus) -> str:
    """How fast it is sent, and what keeps it from being sent."""
    return "  ".join(part for part in (_pace(status), _hold(status)) if part)


def _hold(status: pb.CampaignStatus) -> str:
    if not status.HasField("hold"):
        return ""
    reason = short_names(types_pb2.HoldReason.DESCRIPTOR).get(status.hold.reason, str(status.hold.reason))
    until = f" until {status.hold.until.ToDatetime():%H:%M:%S}Z" if status.hold.HasField("until") else ""
    return f"held by {reason}{until}"


def _pace(status: pb.CampaignStatus) -> str:
    if status.rate_per_second <= 0:
        return ""
    pace = f"{status.rate_per_second:,.0f}/s"
    if not status.HasField("remaining"):
        return pace
    minutes, seconds = divmod(round(status.remaining.ToTimedelta().total_seconds()), 60)
    hours, minutes = divmod(minutes, 60)
    left = f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
    return f"{pace}  {left} left"
