"""Who a process runs as: PostgreSQL refuses root, so root must be able to start it as somebody else."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_GUARD = Path(__file__).with_name("guard.py")


@dataclass(frozen=True, slots=True)
class Account:
    """A way to run a program; `uid` is the owner, seen from here, of the files it writes."""

    spelling: str
    """As guard.py takes it: `same`, `UID:GID`, `UID:GID:everywhere` or `namespace`."""
    uid: int
    gid: int

    def __str__(self) -> str:
        if self.spelling == "namespace":
            return "a user namespace"
        if self.spelling == "same":
            return "the current user"
        passing = " who may pass closed folders" if self.spelling.endswith(":everywhere") else ""
        return f"user {self.uid}{passing}"


def same_account() -> Account:
    """Return the account of this very process."""
    return Account("same", os.geteuid(), os.getegid())


def unprivileged_accounts() -> Iterator[Account]:
    """Yield the accounts a server that refuses root may run as, the one with the fewest rights first.

    All of them use a folder where it is, so that what one has made the next can go on with.
    """
    if os.geteuid() != 0:
        yield same_account()
        return
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        pass
    else:
        spelling = f"{nobody.pw_uid}:{nobody.pw_gid}"
        yield Account(spelling, nobody.pw_uid, nobody.pw_gid)
        if sys.platform == "linux":  # below a folder closed to others, such as root's own home
            yield Account(f"{spelling}:everywhere", nobody.pw_uid, nobody.pw_gid)
    if sys.platform == "linux":
        yield Account("namespace", os.geteuid(), os.getegid())


def guarded(command: Sequence[str | os.PathLike[str]], account: Account, death_signal: int) -> list[str]:
    """Return `command` wrapped so that it runs as `account` and gets `death_signal` when this process ends."""
    return [
        sys.executable,
        "-I",
        "-S",
        str(_GUARD),
        str(os.getpid()),
        str(int(death_signal)),
        account.spelling,
        *(os.fspath(part) for part in command),
    ]


def succeeds(command: Sequence[str | os.PathLike[str]], account: Account) -> bool:
    """Tell whether `command` can be run as `account` and exits with 0."""
    finished = subprocess.run(
        guarded(command, account, 9),
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=30,
        check=False,
    )
    return finished.returncode == 0


def give(folder: Path, account: Account) -> None:
    """Make `account` the owner of a folder of ours and of everything in it; only root can, when it is not already."""
    for path in (folder, *folder.rglob("*")):
        owner = path.lstat().st_uid
        if owner == account.uid:
            continue
        if os.geteuid() != 0:
            raise PermissionError(f"{path} belongs to user {owner}: go on as that user, or delete it")
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


def can_write(folder: Path, account: Account) -> bool:
    """Tell whether `account` can reach and write `folder`; asked of the system, not worked out from mode bits."""
    return succeeds(["/bin/sh", "-c", 'test -d "$0" && test -w "$0" && test -x "$0"', folder], account)
