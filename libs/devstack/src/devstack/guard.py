"""Turns into another program that dies with its supervisor; run by path with `python -I -S`, never imported.

Usage: guard.py SUPERVISOR_PID DEATH_SIGNAL ACCOUNT COMMAND...   (ACCOUNT: same | UID:GID | namespace)

A wrapper rather than a `preexec_fn` because the latter runs Python between fork and exec of a process with threads,
and because the kernel forgets the parent-death signal when the user changes: it must be set
after, and just before exec.
"""

from __future__ import annotations

import ctypes  # now: the other user may not be able to read this interpreter's folder
import os
import sys

_PR_SET_PDEATHSIG = 1
_CLONE_NEWUSER = 0x10000000
_INSIDE_ID = 1000  # any id but 0: PostgreSQL asks geteuid() and refuses 0


def main() -> None:
    supervisor, death_signal, account, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]
    libc = ctypes.CDLL(None, use_errno=True)
    if account == "namespace":
        _enter_user_namespace(libc)
    elif account != "same":
        uid, gid = account.split(":")
        os.setgroups([])
        os.setgid(int(gid))
        os.setuid(int(uid))
    if sys.platform == "linux":
        libc.prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
        if os.getppid() != supervisor:  # it died before the line above could take effect
            sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606 - this is what it is for


def _enter_user_namespace(libc: ctypes.CDLL) -> None:
    """Map this process's user to a user id other than 0 in a namespace of its own."""
    uid, gid = os.geteuid(), os.getegid()
    if libc.unshare(_CLONE_NEWUSER) != 0:
        errno = ctypes.get_errno()
        sys.exit(f"no user namespace to be had: {os.strerror(errno)}")
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{_INSIDE_ID} {uid} 1")
    _write("/proc/self/gid_map", f"{_INSIDE_ID} {gid} 1")


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:  # noqa: PTH123 - importing pathlib would double the start time
        file.write(text)


if __name__ == "__main__":
    main()
