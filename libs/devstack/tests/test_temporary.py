from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from devstack import temporary as module
from devstack.temporary import remove_abandoned_folders, temporary_folder

HOLDER = """
import time
from devstack.temporary import temporary_folder
with temporary_folder("held") as folder:
    (folder / "data").mkdir()
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary folder of this test."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return tmp_path


def test_a_temporary_folder_goes_with_its_block(temporary: Path) -> None:
    with temporary_folder("block") as folder:
        assert folder.parent == temporary
        (folder / "file").touch()
    assert list(temporary.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_what_is_in_use_is_kept(temporary: Path) -> None:
    somebody_elses = temporary / "bulksms-without-our-lock"
    somebody_elses.mkdir()
    with temporary_folder("in-use") as in_use:
        with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout
            held = Path(holder.stdout.readline().strip())
            remove_abandoned_folders()
            assert held.is_dir(), "its process lives"
            holder.kill()
        assert held.is_dir()
        remove_abandoned_folders()
        assert set(temporary.iterdir()) == {in_use, somebody_elses}


def test_the_next_temporary_folder_removes_what_a_killed_process_left(temporary: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        holder.stdout.readline()
        holder.kill()
    with temporary_folder("next") as folder:
        assert list(temporary.iterdir()) == [folder]


@pytest.mark.parametrize("plenty", [True, False])
def test_what_need_not_outlive_the_machine_is_kept_in_memory_where_that_is_plenty(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, plenty: bool
) -> None:
    memory, disk = temporary / "memory", temporary / "disk"
    memory.mkdir()
    disk.mkdir()
    monkeypatch.delenv("TMPDIR")
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    monkeypatch.setattr(module, "_MEMORY", memory)
    monkeypatch.setattr(module, "_PLENTY_BYTES", 1 if plenty else 1 << 62)
    with temporary_folder("quick", in_memory=True) as quick, temporary_folder("lasting") as lasting:
        assert quick.parent == (memory if plenty else disk)
        assert lasting.parent == disk


def test_a_temporary_folder_that_was_named_is_used_though_memory_is_plenty(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PLENTY_BYTES", 1)
    with temporary_folder("quick", in_memory=True) as folder:
        assert folder.parent == temporary


def test_what_a_killed_process_left_in_memory_is_removed_too(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = temporary / "memory"
    memory.mkdir()
    monkeypatch.setattr(module, "_MEMORY", memory)
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout
        held = Path(holder.stdout.readline().strip())
        holder.kill()
    held.rename(memory / held.name)
    remove_abandoned_folders()
    assert list(memory.iterdir()) == []
