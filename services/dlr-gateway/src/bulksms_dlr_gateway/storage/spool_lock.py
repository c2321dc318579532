"""One gateway per spool."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from bulksms_dlr_gateway.storage.tables import SpoolFileError

__all__ = ["SpoolLock"]


class SpoolLock:
    """An advisory lock beside the spool; the system lets go of it when the process ends, however it ends."""

    def __init__(self, spool: Path) -> None:
        self._path = spool.with_name(f"{spool.name}.lock")
        self._descriptor: int | None = None

    def take(self) -> None:
        """Hold the lock, or raise SpoolFileError: another gateway would forward the same reports."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SpoolFileError(
                f"the folder of the spool cannot be used ({error}): SPOOL_PATH must name a file in a writable folder"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise SpoolFileError(
                f"another gateway is using the spool {self._path.with_suffix('')}: give each its own SPOOL_PATH"
            ) from error
        self._descriptor = descriptor

    def release(self) -> None:
        """Let go; a second time does nothing."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
