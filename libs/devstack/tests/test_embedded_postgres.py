from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from devstack.accounts import Account, can_write, unprivileged_accounts
from devstack.postgres import EmbeddedPostgres
from devstack.postgres_installation import PostgresUnavailableError
from devstack.sql import execute, fetch


@pytest.fixture
def postgres(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(tmp_path / "postgres", fsync=False)
    server.start()
    yield server
    server.remove()


def committed(postgres: EmbeddedPostgres) -> list[int]:
    return [row[0] for row in fetch(postgres.url, "SELECT number FROM numbers ORDER BY number")]


def test_it_is_a_modern_postgresql_that_knows_greek_and_never_loses_commits(postgres: EmbeddedPostgres) -> None:
    row = fetch(
        postgres.url,
        "SELECT current_setting('server_version_num')::int >= 150000, current_setting('server_encoding'), "
        "current_setting('synchronous_commit'), lower('ΆΣ'), current_setting('jit'), "
        "current_setting('unix_socket_directories')",
    )
    assert row == [(True, "UTF8", "on", "άσ", "off", "")]


def test_it_keeps_port_password_and_commits_through_kill_and_start(postgres: EmbeddedPostgres) -> None:
    url = postgres.url
    execute(url, ["CREATE TABLE numbers (number int PRIMARY KEY)"])
    for number in range(3):
        execute(url, [f"INSERT INTO numbers VALUES ({number})"])
        postgres.kill()
        assert not postgres.process.running
        postgres.start()
    assert postgres.url == url
    assert committed(postgres) == [0, 1, 2]


def test_it_starts_again_when_only_the_postmaster_was_killed_and_backends_are_left(postgres: EmbeddedPostgres) -> None:
    pid = postgres.process.pid
    assert pid
    assert psutil.Process(pid).children()
    os.kill(pid, signal.SIGKILL)
    postgres.process.wait(10)
    postgres.start()
    assert fetch(postgres.url, "SELECT 1") == [(1,)]


def test_it_starts_although_the_pid_file_names_some_other_process(postgres: EmbeddedPostgres) -> None:
    postgres.kill()
    pid_file = postgres._cluster.data / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    postgres.start()
    assert fetch(postgres.url, "SELECT 1") == [(1,)]


def test_its_data_is_there_for_the_next_program(tmp_path: Path) -> None:
    first = EmbeddedPostgres(tmp_path / "postgres", fsync=False)
    first.start()
    execute(first.url, ["CREATE TABLE numbers (number int)", "INSERT INTO numbers VALUES (7)"])
    first.stop()
    second = EmbeddedPostgres(tmp_path / "postgres", fsync=False)
    second.start()
    try:
        assert committed(second) == [7]
    finally:
        second.remove()
    assert not (tmp_path / "postgres").exists()


def test_two_at_a_time_on_the_same_data_are_refused(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("devstack.postgres._LEFTOVER_SECONDS", 0.2)
    with pytest.raises(PostgresUnavailableError, match="another PostgreSQL"):
        EmbeddedPostgres(postgres.folder, fsync=False).start()
    assert fetch(postgres.url, "SELECT 1") == [(1,)]


def test_its_password_is_readable_by_its_user_only(postgres: EmbeddedPostgres) -> None:
    password_file = postgres.folder / "password"
    assert stat.S_IMODE(password_file.stat().st_mode) == 0o600
    assert password_file.read_text() not in " ".join(psutil.Process(postgres.process.pid).cmdline())


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user has one account only")
@pytest.mark.parametrize("account", list(unprivileged_accounts()), ids=str)
def test_root_can_run_it_in_each_way_also_below_a_folder_closed_to_others(
    account: Account, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    parents_before = [(parent, parent.stat().st_mode) for parent in (closed, *closed.parents)]
    monkeypatch.setattr("devstack.postgres_installation.unprivileged_accounts", lambda: iter([account]))
    server = EmbeddedPostgres(closed / "postgres", fsync=False)
    server.start()
    try:
        assert fetch(server.url, "SELECT 1") == [(1,)]
        assert psutil.Process(server.process.pid).uids().real == account.uid
        assert account.uid != 0 or not can_write(closed, Account("65534:65534", 65534, 65534))
    finally:
        home = server._cluster.home
        server.remove()
    assert home is not None
    assert not home.exists()
    assert [(parent, parent.stat().st_mode) for parent, _ in parents_before] == parents_before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is anybody else")
def test_programs_out_of_reach_of_the_other_user_are_copied_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from devstack import postgres_installation

    first = next(postgres_installation.find_installations())
    if first.account.spelling == "namespace":
        pytest.skip("there is no other user here")
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    installation = first.programs.parent
    (closed / "pg").mkdir()
    for part in ("bin", "lib", "share"):
        (closed / "pg" / part).symlink_to(installation / part)
    shared = tmp_path / "shared"
    shared.mkdir()
    monkeypatch.setattr(postgres_installation, "private_folder_candidates", lambda: [Path("/tmp")])
    monkeypatch.setattr(postgres_installation, "_program_folders", lambda: iter([closed / "pg" / "bin"]))
    found = [i for i in postgres_installation.find_installations() if i.account.is_other_user]
    again = [i for i in postgres_installation.find_installations() if i.account.is_other_user]
    copy = found[0].programs.parent
    try:
        assert copy.parent == Path("/tmp")
        assert found == again
    finally:
        import shutil

        shutil.rmtree(copy)


def test_when_nothing_works_the_error_says_to_set_database_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devstack.postgres_installation._program_folders", lambda: iter(()))
    with pytest.raises(PostgresUnavailableError, match="Set DATABASE_URL"):
        EmbeddedPostgres(tmp_path / "postgres").start()
