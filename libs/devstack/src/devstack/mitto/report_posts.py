"""Delivery reports as POSTs: what each says, and how it goes astray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Annotated

import msgspec

from devstack.mitto.behaviours import AtLeastOne, Count, Seconds, Share
from devstack.mitto.delivery import draw_lot
from devstack.mitto.message_ids import unknown_ulid
from devstack.mitto.records import AcceptedRequest, Content, describe
from devstack.mitto.webhook import Post, WebhookAddress
from devstack.mitto.wire import MessageView, OlderReport, timestamp


class ReportSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How reports are sent. The shares are of reports; each report's lot is fixed by seed and message id."""

    url: str | None = None
    """Instead of SIMULATOR_REPORT_URL."""
    headers: dict[str, str] | None = None
    """Instead of SIMULATOR_REPORT_HEADERS."""
    connections: Annotated[int, msgspec.Meta(ge=1, le=512)] = 16
    pipeline: Annotated[int, msgspec.Meta(ge=1, le=64)] = 1
    """Posts under way per connection at a time."""
    batch: Annotated[int, msgspec.Meta(ge=1, le=500)] = 1
    """Reports per POST."""
    array: bool = False
    """Send an array even for a single report."""
    per_second: Count = 0
    """At most so many posts per second; 0 is unlimited."""
    timeout_seconds: Annotated[float, msgspec.Meta(gt=0, le=600)] = 10.0
    retry_attempts: Count = 0
    """Further attempts at what was not acknowledged; what Mitto does is not known, the default is none."""
    retry_seconds: Seconds = 1.0
    lost_share: Share = 0.0
    delayed_share: Share = 0.0
    delayed_seconds: Seconds = 1.0
    duplicated_share: Share = 0.0
    duplicates: AtLeastOne = 1
    duplicate_seconds: Seconds = 0.0
    reordered_share: Share = 0.0
    """Of messages: their statuses are reported last to first."""
    wrong_secret_share: Share = 0.0
    """Sent with every configured header's value replaced by `wrong`, instead of rightly."""
    no_secret_share: Share = 0.0
    """Sent without the configured headers, instead of rightly."""
    unknown_id_share: Share = 0.0
    """An extra report for an id that was never handed out."""
    older_names_share: Share = 0.0
    """Sent with `status` and `errorCode` instead of `deliveryStatus` and `description`."""

    @property
    def astray(self) -> bool:
        """Whether any report is to go another way than the polite one."""
        return any(
            (
                self.lost_share,
                self.delayed_share,
                self.duplicated_share,
                self.reordered_share,
                self.wrong_secret_share,
                self.no_secret_share,
                self.unknown_id_share,
                self.older_names_share,
            )
        )


@dataclass(frozen=True, slots=True)
class _Report:
    message_id: str
    status: str
    view: MessageView | OlderReport
    head: bytes
    wait_seconds: float = 0.0


class ReportWriter:
    """Makes the posts for messages that have reached a status."""

    def __init__(
        self,
        settings: ReportSettings,
        address: WebhookAddress,
        headers: dict[str, str],
        seed: int,
        counts: Counter[str],
    ) -> None:
        self.settings = settings
        self.head = address.head(headers)
        self._wrong_head = address.head(dict.fromkeys(headers, "wrong"))
        self._bare_head = address.head({})
        self._seed = seed
        self._random = Random(f"{seed}/reports")  # noqa: S311 - repeatable
        self._counts = counts

    def posts(
        self,
        request: AcceptedRequest,
        content: Content,
        indexes: range,
        step: int,
        now: float,
        on_end: Callable[[Post], None],
    ) -> tuple[list[tuple[float, Post]], int]:
        """The posts saying that these messages reached their status number `step`.

        Returns each with the seconds to delay it, and the greatest status number any of the messages will reach.
        """
        created, updated = timestamp(request.accepted_at), timestamp(now)
        reports: list[_Report] = []
        last_step = 0
        for index in indexes:
            message_id, message = content.ids[index], content.messages[index]
            outcome = request.delivery.outcome(message.destination, message_id, self._seed)
            steps = len(outcome.statuses)
            last_step = max(last_step, steps - 1)
            if step >= steps:
                continue
            shown = step
            if self._lot(message_id, "reordered", self.settings.reordered_share) and steps > 1:
                shown = steps - 1 - step
                self._counts["reordered"] += 1
            final = shown == steps - 1
            view = describe(
                message_id,
                message,
                status=outcome.statuses[shown],
                description=outcome.description if final else None,
                created_at=created,
                updated_at=updated,
            )
            if self.settings.astray:
                reports += self._send_astray(view, outcome.error_code if final else None, step, now)
            else:
                reports.append(_Report(message_id, view.delivery_status, view, self.head))
        return list(self._pack(reports, on_end)), last_step

    def _send_astray(self, view: MessageView, error_code: str | None, step: int, now: float) -> Iterator[_Report]:
        settings, counts = self.settings, self._counts
        message_id, status = view.message_id, view.delivery_status
        if self._lot(message_id, f"unknown/{step}", settings.unknown_id_share):
            counts["unknown_id"] += 1
            unknown = msgspec.structs.replace(view, message_id=unknown_ulid(int(now * 1000), self._random))
            yield _Report(unknown.message_id, status, unknown, self.head)
        if self._lot(message_id, f"lost/{step}", settings.lost_share):
            counts["lost"] += 1
            return
        shown: MessageView | OlderReport = view
        if self._lot(message_id, f"older/{step}", settings.older_names_share):
            counts["older_names"] += 1
            shown = OlderReport(message_id, status, error_code or view.description, view.updated_at)
        head = self.head
        if self._lot(message_id, f"wrong/{step}", settings.wrong_secret_share):
            counts["wrong_secret"] += 1
            head = self._wrong_head
        elif self._lot(message_id, f"bare/{step}", settings.no_secret_share):
            counts["no_secret"] += 1
            head = self._bare_head
        wait = 0.0
        if self._lot(message_id, f"delayed/{step}", settings.delayed_share):
            counts["delayed"] += 1
            wait = settings.delayed_seconds
        yield _Report(message_id, status, shown, head, wait)
        if self._lot(message_id, f"duplicated/{step}", settings.duplicated_share):
            for copy in range(1, settings.duplicates + 1):
                counts["duplicated"] += 1
                yield _Report(message_id, status, shown, head, wait + copy * settings.duplicate_seconds)

    def _lot(self, message_id: str, salt: str, share: float) -> bool:
        return share > 0 and draw_lot(message_id, self._seed, salt) < share

    def _pack(self, reports: list[_Report], on_end: Callable[[Post], None]) -> Iterator[tuple[float, Post]]:
        settings = self.settings
        groups: dict[tuple[float, bytes], list[_Report]] = {}
        for report in reports:
            groups.setdefault((report.wait_seconds, report.head), []).append(report)
        for (wait, head), group in groups.items():
            for start in range(0, len(group), settings.batch):
                part = group[start : start + settings.batch]
                alone = settings.batch == 1 and not settings.array
                post = Post(
                    body=msgspec.json.encode(part[0].view if alone else [report.view for report in part]),
                    head=head,
                    message_ids=tuple(report.message_id for report in part),
                    statuses=tuple(report.status for report in part),
                    on_end=on_end,
                )
                yield wait, post
