"""Folders, and whole stacks, for a while: gone with the block, and after a kill with the next `down`."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from devstack.servers import Servers
from devstack.stack import Stack, StackOptions
from devstack.state import FolderLock

__all__ = ["remove_abandoned_folders", "temporary_folder", "temporary_stack"]

_PREFIX = "bulksms-"


@contextmanager
def temporary_folder(purpose: str) -> Iterator[Path]:
    """A folder in the system's temporary one; its lock goes with this process, which tells a folder of a killed one."""
    remove_abandoned_folders()
    folder, lock = _make_locked_folder(purpose)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def remove_abandoned_folders() -> None:
    """Remove what `temporary_folder` made in processes that were killed since."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        lock = FolderLock(folder)
        with contextlib.suppress(FileNotFoundError):  # another process removes it too
            if folder.lstat().st_uid == os.geteuid() and lock.is_there() and lock.acquire():
                shutil.rmtree(folder, ignore_errors=True)
                lock.release()


def _make_locked_folder(purpose: str) -> tuple[Path, FolderLock]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{purpose}-"))
        lock = FolderLock(folder)
        if lock.acquire() and folder.is_dir():  # else it was taken for abandoned before it was locked
            return folder, lock


@contextmanager
def temporary_stack(
    replicas: Mapping[str, int], environment: Mapping[str, str], *, servers: Servers | None = None, traces: bool = False
) -> Iterator[Stack]:
    """So many processes of each service, all with this environment. Without `servers`: own ones, that can be killed."""
    with temporary_folder("stack") as folder:
        options = StackOptions(
            folder=folder / "stack",
            ephemeral=True,
            fsync=False,  # what was written outlives every process, though not the machine
            replicas=replicas,
            environment=dict.fromkeys(replicas, environment),
            traces=traces,
            database_url=servers.admin_url if servers else None,
            redis_url=servers.redis_url if servers else None,
        )
        with Stack(options) as stack:
            yield stack
