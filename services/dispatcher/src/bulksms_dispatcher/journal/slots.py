"""Slots of the journal's folder: one for each process, locked as long as it lives."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["MAX_SLOTS", "Slot", "claim_abandoned", "claim_any"]

MAX_SLOTS = 64
_LOCK = "lock"
_SUFFIX = ".journal"


class Slot:
    """A locked subfolder. The lock ends with the process, however it ends."""

    def __init__(self, folder: Path, lock: int) -> None:
        self.folder = folder
        self._lock = lock

    def segments(self) -> list[Path]:
        """Its segments, oldest first."""
        return sorted(self.folder.glob(f"*{_SUFFIX}"))

    def next_segment(self) -> Path:
        """The path of a segment after all there are."""
        existing = self.segments()
        number = int(existing[-1].stem) + 1 if existing else 1
        return self.folder / f"{number:012d}{_SUFFIX}"

    def release(self) -> None:
        """Let another process have it."""
        os.close(self._lock)


def claim_any(folder: Path) -> Slot:
    """The first free slot, made when there is none. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(MAX_SLOTS):
        slot = _claim(folder / f"slot-{number:02d}")
        if slot is not None:
            return slot
    raise OSError(f"all {MAX_SLOTS} slots of {folder} are in use")


def claim_abandoned(folder: Path) -> Iterator[Slot]:
    """Slots whose process is gone and left segments behind; each is released after its turn."""
    for path in sorted(folder.glob("slot-*")):
        if not any(path.glob(f"*{_SUFFIX}")):
            continue
        slot = _claim(path)
        if slot is not None:
            try:
                yield slot
            finally:
                slot.release()


def _claim(path: Path) -> Slot | None:
    path.mkdir(exist_ok=True)
    lock = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    except BaseException:
        os.close(lock)
        raise
    return Slot(path, lock)
