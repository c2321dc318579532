"""Turns into another program that dies with its supervisor; run by path with `python -I -S`, never imported.

Usage: guard.py SUPERVISOR_PID DEATH_SIGNAL ACCOUNT COMMAND...
ACCOUNT: same | UID:GID | UID:GID:everywhere | namespace

A wrapper rather than a `preexec_fn` because the latter runs Python between fork and exec of a process with threads,
and because the kernel forgets the parent-death signal when the user changes: it must be set
after, and just before exec.
"""

from __future__ import annotations

import ctypes  # now: the other user may not be able to read this interpreter's folder
import os
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_SECUREBITS = 28
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 47, 2
_SECBIT_NO_SETUID_FIXUP = 1 << 2
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH = 1, 2
_CLONE_NEWUSER = 0x10000000
_INSIDE_ID = 1000  # any id but 0: PostgreSQL asks geteuid() and refuses 0


def main() -> None:
    supervisor, death_signal, account, command = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4:]
    libc = ctypes.CDLL(None, use_errno=True)
    if account == "namespace":
        _enter_user_namespace(libc)
    elif account != "same":
        uid, gid, *everywhere = account.split(":")
        _become(libc, int(uid), int(gid), everywhere=bool(everywhere))
    if sys.platform == "linux":
        libc.prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
        if os.getppid() != supervisor:  # it died before the line above could take effect
            sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606 - this is what it is for


def _become(libc: ctypes.CDLL, uid: int, gid: int, *, everywhere: bool) -> None:
    """Become another user; `everywhere`: one who passes folders closed to others, as root does, and reads files."""
    if everywhere:  # else the next lines would take every capability, and access() would not count the one kept
        _check(libc.prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0), "the user's rights cannot be kept")
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if everywhere and _keep_only(libc, _CAP_DAC_READ_SEARCH) != 0:
        # Containers often withhold that one from root and leave it the stronger one.
        _check(_keep_only(libc, _CAP_DAC_OVERRIDE), "the right to pass closed folders cannot be kept")


def _keep_only(libc: ctypes.CDLL, capability: int) -> int:
    """Give up every capability but this one, and keep it through exec; 0 when that was possible."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    alone = 1 << capability
    effective_permitted_inheritable = (ctypes.c_uint32 * 6)(alone, alone, alone, 0, 0, 0)
    if libc.capset(header, effective_permitted_inheritable) != 0:
        return -1
    return int(libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0))


def _enter_user_namespace(libc: ctypes.CDLL) -> None:
    """Map this process's user to a user id other than 0 in a namespace of its own."""
    uid, gid = os.geteuid(), os.getegid()
    _check(libc.unshare(_CLONE_NEWUSER), "no user namespace to be had")
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{_INSIDE_ID} {uid} 1")
    _write("/proc/self/gid_map", f"{_INSIDE_ID} {gid} 1")


def _check(returned: int, complaint: str) -> None:
    if returned != 0:
        sys.exit(f"{complaint}: {os.strerror(ctypes.get_errno())}")


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:  # noqa: PTH123 - importing pathlib would double the start time
        file.write(text)


if __name__ == "__main__":
    main()
