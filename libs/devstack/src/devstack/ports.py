"""Free TCP ports that stay ours: chosen before a process starts, and kept while it restarts."""

from __future__ import annotations

import os
import random
import socket
import sys
from collections.abc import Callable
from pathlib import Path

LOOPBACK = "127.0.0.1"

# Below the range the kernel gives to outgoing connections (32768 and up on Linux, 49152 elsewhere): a port from
# that range can be taken by any client of this machine while our process is down for a restart.
_FIRST, _LAST = 15_000, 29_999
_ATTEMPTS = 200

# Port → the descriptor of the socket that marks it as taken; closed by release_port, or with this process.
_reserved: dict[int, int | None] = {}


class NoFreePortError(Exception):
    """No port could be had after many attempts."""


def choose_port(choose: Callable[[int, int], int] | None = None) -> int:
    """Return a TCP port of 127.0.0.1 nobody listens on, and that no other stack on this machine will choose.

    `choose` picks a number between two; the default is the system's randomness, so that seeded tests don't collide.
    """
    choose = choose or random.SystemRandom().randint
    first, last = _range_below_ephemeral()
    for _ in range(_ATTEMPTS):
        port = choose(first, last)
        if port not in _reserved and _reserve(port):
            if is_free(port):
                return port
            release_port(port)
    raise NoFreePortError(f"no free TCP port between {first} and {last} after {_ATTEMPTS} attempts")


def release_port(port: int) -> None:
    """Let others choose `port` again."""
    mark = _reserved.pop(port, None)
    if mark is not None:
        os.close(mark)


def is_free(port: int) -> bool:
    """Tell whether a server could listen on `port` of 127.0.0.1 and of all interfaces now."""
    for host in (LOOPBACK, ""):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True


def accepts_connections(port: int, host: str = LOOPBACK) -> bool:
    """Tell whether somebody listens on `port`."""
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError:
        return False


def _reserve(port: int) -> bool:
    """Mark `port` as chosen for every process of this machine; the mark goes with this process.

    The mark is a name in Linux's abstract socket namespace: it has the scope of the ports themselves (the network
    namespace), needs no file and no permission, and cannot be left behind. Elsewhere the mark is this process's own.
    """
    if sys.platform != "linux":
        _reserved[port] = None
        return True
    mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        mark.bind(f"\0bulksms-devstack-port-{port}")
    except OSError:
        mark.close()
        return False
    _reserved[port] = mark.detach()
    return True


def _range_below_ephemeral() -> tuple[int, int]:
    """The ports to choose from, cut where the kernel's own range begins (it can be configured lower)."""
    try:
        ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return _FIRST, _LAST
    return (_FIRST, min(_LAST, ephemeral - 1)) if ephemeral > _FIRST + 1_000 else (_FIRST, _LAST)
