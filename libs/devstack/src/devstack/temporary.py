"""Folders, and whole stacks, for a while: gone with the block, and after a kill with the next `down`."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from devstack.servers import Servers
from devstack.stack import Stack, StackOptions
from devstack.state import FolderLock

__all__ = ["remove_abandoned_folders", "temporary_folder", "temporary_stack"]

_PREFIX = "bulksms-"
_MEMORY = Path("/dev/shm")  # noqa: S108 - what is made there is named by mkdtemp
_PLENTY_BYTES = 4 << 30


@contextmanager
def temporary_folder(purpose: str, *, in_memory: bool = False) -> Iterator[Path]:
    """A folder in the system's temporary one; its lock goes with this process, which tells a folder of a killed one.

    `in_memory` is for what need not outlive the machine: where memory is plenty the folder is kept there, unless
    TMPDIR names another place. A copy of a database, 300 files, costs 0.03 s of a processor there and 0.2 s on a disk.
    """
    remove_abandoned_folders()
    folder, lock = _make_locked_folder(purpose, _MEMORY if in_memory and _memory_is_plenty() else _disk())
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def remove_abandoned_folders() -> None:
    """Remove what `temporary_folder` made in processes that were killed since."""
    for folder in (folder for parent in (_disk(), _MEMORY) for folder in parent.glob(f"{_PREFIX}*")):
        lock = FolderLock(folder)
        with contextlib.suppress(FileNotFoundError):  # another process removes it too
            if folder.lstat().st_uid == os.geteuid() and lock.is_there() and lock.acquire():
                shutil.rmtree(folder, ignore_errors=True)
                lock.release()


def _disk() -> Path:
    return Path(tempfile.gettempdir())


def _memory_is_plenty() -> bool:
    """Tell whether the file system in memory is large, programs on it may be run, and TMPDIR names no other place."""
    if "TMPDIR" in os.environ or not os.access(_MEMORY, os.W_OK | os.X_OK):
        return False
    file_system = os.statvfs(_MEMORY)
    free_bytes = min(file_system.f_bavail * file_system.f_frsize, psutil.virtual_memory().available)
    return free_bytes >= _PLENTY_BYTES and not file_system.f_flag & os.ST_NOEXEC


def _make_locked_folder(purpose: str, parent: Path) -> tuple[Path, FolderLock]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{purpose}-", dir=parent))
        lock = FolderLock(folder)
        if lock.acquire() and folder.is_dir():  # else it was taken for abandoned before it was locked
            return folder, lock


@contextmanager
def temporary_stack(
    replicas: Mapping[str, int], environment: Mapping[str, str], *, servers: Servers | None = None, traces: bool = False
) -> Iterator[Stack]:
    """So many processes of each service, all with this environment. Without `servers`: own ones, that can be killed."""
    with temporary_folder("stack", in_memory=True) as folder:
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
