from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from bulksms_dlr_gateway.settings import Settings
from servicekit.settings import SettingsError, load

pytestmark = pytest.mark.slow

SECRET = "0123456789abcdef"


def serve(start_gateway: Any, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bulksms_dlr_gateway", "serve"],
        env=start_gateway.environment(**environment),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("secrets", "words"),
    [
        ("", "0 found"),
        ("short", "at least 16"),
        (f"{SECRET}1,{SECRET}2,{SECRET}3", "3 found"),
        (f"{SECRET} with blanks", "visible ASCII"),
    ],
)
def test_secrets_that_protect_nothing_are_refused_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, secrets: str, words: str
) -> None:
    monkeypatch.setenv("SPOOL_PATH", "spool")
    monkeypatch.setenv("DLR_SECRETS", secrets)
    with pytest.raises(SettingsError) as raised:
        load(Settings)
    assert "DLR_SECRETS" in str(raised.value)
    assert words in str(raised.value)
    assert "openssl rand" in str(raised.value)
    assert SECRET not in str(raised.value)


def test_without_a_secret_the_gateway_does_not_start(start_gateway: Any, tmp_path: Any) -> None:
    done = serve(start_gateway, DLR_SECRETS="", SPOOL_PATH=str(tmp_path / "spool"))
    assert done.returncode == 2
    assert "DLR_SECRETS" in done.stderr
    assert not (tmp_path / "spool").exists()


def test_without_a_spool_the_gateway_says_which_variable_to_set(start_gateway: Any) -> None:
    done = serve(start_gateway)
    assert done.returncode == 2
    assert "SPOOL_PATH is not set" in done.stderr


def test_a_spool_in_an_impossible_place_ends_the_start_with_the_cure(start_gateway: Any, tmp_path: Any) -> None:
    (tmp_path / "file").write_text("")
    done = serve(start_gateway, SPOOL_PATH=str(tmp_path / "file" / "spool.sqlite3"))
    assert done.returncode == 1
    assert "SPOOL_PATH must name a file in a writable folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_spool_ends_the_start_and_is_left_alone(start_gateway: Any, tmp_path: Any) -> None:
    spool = tmp_path / "spool.sqlite3"
    spool.write_bytes(b"no database at all" * 1_000)
    done = serve(start_gateway, SPOOL_PATH=str(spool))
    assert done.returncode == 1
    assert "move it away" in done.stderr
    assert spool.read_bytes() == b"no database at all" * 1_000


def test_two_gateways_never_share_a_spool(start_gateway: Any) -> None:
    first = start_gateway()
    done = serve(start_gateway, SPOOL_PATH=str(first.spool_path))
    assert done.returncode == 1
    assert "another gateway is using the spool" in done.stderr
    assert str(first.spool_path) in done.stderr


def test_migrate_has_nothing_to_do_and_says_so(start_gateway: Any, tmp_path: Any) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bulksms_dlr_gateway", "migrate"],
        env=start_gateway.environment(SPOOL_PATH=str(tmp_path / "spool")),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    assert "nothing to migrate" in done.stderr
