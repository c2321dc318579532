"""The rotation of lanes: priority first, then the tenant served longest ago, so that none waits for a million."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable

from bulksms_dispatcher.domain.batches import Lane

__all__ = ["LaneRotation"]

_REMEMBERED = 2000


class LaneRotation:
    """Which of the open lanes is served next; one rotation per process."""

    def __init__(self) -> None:
        self._open: set[Lane] = set()
        self._served = 0
        self._tenant_served: dict[str, int] = {}
        self._lane_served: dict[Lane, int] = {}

    def replace(self, lanes: Iterable[Lane]) -> None:
        """These have something to claim now."""
        self._open = set(lanes)
        if len(self._lane_served) > _REMEMBERED:
            tenants = {lane.tenant_id for lane in self._open}
            self._lane_served = {lane: n for lane, n in self._lane_served.items() if lane in self._open}
            self._tenant_served = {t: n for t, n in self._tenant_served.items() if t in tenants}

    def choose(
        self, at_least: int, blocked: Container[str], kept_back: Callable[[Lane], bool] = lambda _lane: False
    ) -> Lane | None:
        """The next lane of a priority of at least `at_least` neither kept back nor of a `blocked` tenant."""
        candidates = [
            lane
            for lane in self._open
            if lane.priority >= at_least and lane.tenant_id not in blocked and not kept_back(lane)
        ]
        return min(candidates, key=self._order, default=None)

    @property
    def open_lanes(self) -> Collection[Lane]:
        """Those that have something to claim, as far as is known."""
        return self._open

    def close(self, lane: Lane) -> None:
        """There was nothing to claim in it."""
        self._open.discard(lane)

    def note_served(self, lane: Lane) -> None:
        """A batch of it was claimed."""
        self._served += 1
        self._tenant_served[lane.tenant_id] = self._served
        self._lane_served[lane] = self._served

    def _order(self, lane: Lane) -> tuple[int, int, int, Lane]:
        return (-lane.priority, self._tenant_served.get(lane.tenant_id, 0), self._lane_served.get(lane, 0), lane)
