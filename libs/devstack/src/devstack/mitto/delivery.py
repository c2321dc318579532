"""What becomes of an accepted message: which delivery statuses it goes through, and when."""

from __future__ import annotations

import zlib
from typing import Annotated

import msgspec

from devstack.mitto.behaviours import BehaviourError, Seconds, Share

Statuses = Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=10)]


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The statuses some messages go through, and whom this concerns."""

    statuses: Statuses = ("Sent", "Delivered")
    """For instance ["Sent", "Failure"], ["Expired"], or ["Sent"] for what never becomes final."""
    description: str | None = None
    error_code: str | None = None
    destination_prefix: str = ""
    destination_suffix: str = ""
    share: Share = 1.0

    def concerns(self, destination: str, lot: float) -> bool:
        """Whether a message meets this outcome; `lot` is its own number in [0, 1)."""
        return (
            destination.startswith(self.destination_prefix)
            and destination.endswith(self.destination_suffix)
            and lot < self.share
        )


DELIVERED = Outcome()


class Delivery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How messages fare, and how fast. The first outcome that concerns a message is its own; else Delivered."""

    outcomes: tuple[Outcome, ...] = ()
    first_status_seconds: Seconds = 0.05
    """From acceptance to the first status."""
    next_status_seconds: Seconds = 0.2
    """From each status to the next."""
    spread_seconds: Seconds = 0.0
    """Messages of one request reach each status over so long, in their order."""

    def __post_init__(self) -> None:
        if len(self.outcomes) > 1000:
            raise BehaviourError("outcomes: at most 1,000")

    def outcome(self, destination: str, message_id: str, seed: int) -> Outcome:
        """The fate of one message: always the same for the same seed and id."""
        if not self.outcomes:
            return DELIVERED
        for index, outcome in enumerate(self.outcomes):
            lot = 0.0 if outcome.share >= 1 else draw_lot(message_id, seed, index)
            if outcome.concerns(destination, lot):
                return outcome
        return DELIVERED

    def due(self, accepted_at: float, step: int, fraction: float) -> float:
        """When a message reaches its status number `step` (0 is the first)."""
        wait = self.first_status_seconds + step * self.next_status_seconds + fraction * self.spread_seconds
        return accepted_at + wait

    def step_at(self, now: float, accepted_at: float, steps: int, fraction: float) -> int:
        """The status number reached by now; -1 before the first."""
        step = -1
        while step + 1 < steps and self.due(accepted_at, step + 1, fraction) <= now:
            step += 1
        return step


def draw_lot(message_id: str, seed: int, salt: int | str) -> float:
    """A number in [0, 1) that belongs to a message: spread evenly, and the same each time it is asked for."""
    # CRC is linear: two salts alone would give lots that go together, so the result is mixed once more.
    value = zlib.crc32(f"{salt}/{seed}/{message_id}".encode())
    value = (value ^ (value >> 15)) * 0x2C1B3C6D & 0xFFFFFFFF
    value = (value ^ (value >> 12)) * 0x297A2D39 & 0xFFFFFFFF
    return (value ^ (value >> 15)) / 2**32
