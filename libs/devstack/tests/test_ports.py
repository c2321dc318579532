from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from devstack.ports import NoFreePortError, accepts_connections, choose_port, is_free, release_port


def test_a_chosen_port_can_be_bound_and_is_below_the_range_of_outgoing_connections() -> None:
    port = choose_port()
    try:
        assert 15_000 <= port < 30_000
        with socket.create_server(("127.0.0.1", port)):
            assert accepts_connections(port)
            assert not is_free(port)
    finally:
        release_port(port)


def test_a_port_somebody_listens_on_is_not_chosen() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        numbers = iter([taken.getsockname()[1], 15_501, 15_502, 15_503])
        chosen = choose_port(lambda _first, _last: next(numbers))
        assert chosen in {15_501, 15_502, 15_503}
        release_port(chosen)


def test_a_port_is_chosen_once_until_it_is_released() -> None:
    port = choose_port()
    with pytest.raises(NoFreePortError):
        choose_port(lambda _first, _last: port)
    release_port(port)
    assert choose_port(lambda _first, _last: port) == port
    release_port(port)


@pytest.mark.skipif(sys.platform != "linux", reason="ports are marked across processes on Linux only")
def test_a_port_chosen_by_another_process_is_not_chosen_until_that_process_ends() -> None:
    script = "from devstack.ports import choose_port; print(choose_port(), flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdin
        port = int(other.stdout.readline())
        with pytest.raises(NoFreePortError):
            choose_port(lambda _first, _last: port)
        other.communicate(b"\n")
    assert choose_port(lambda _first, _last: port) == port
    release_port(port)
