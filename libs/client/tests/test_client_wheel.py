"""The package as others install it: the blocking client is built from the asyncio one, never committed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

LIBRARY = Path(__file__).resolve().parent.parent
REPOSITORY = LIBRARY.parent.parent
SYNC = Path("src/bulksms_client/sync")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The library as a fresh clone has it: nothing built, and what is built ignored by git."""
    shutil.copy(REPOSITORY / ".gitignore", tmp_path)
    library = tmp_path / "libs" / "client"
    shutil.copytree(LIBRARY, library, ignore=shutil.ignore_patterns("sync", "tests", "__pycache__"))
    return library


def run(*command: str | Path, environment: dict[str, str] | None = None) -> str:
    ran = subprocess.run(
        [sys.executable, *map(str, command)],
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_a_wheel_holds_the_blocking_client(checkout: Path, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    run("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, checkout)
    (wheel,) = wheels.glob("*.whl")
    program = (
        "import bulksms_client, bulksms_client.sync.campaigns as campaigns;"
        "client = bulksms_client.Client(tenant_id='acme');"
        "print(type(client.campaigns) is campaigns.Campaigns, campaigns.__file__)"
    )
    # First on the path, before the editable install this test runs in.
    found = run("-c", program, environment={"PYTHONPATH": str(wheel)})
    assert found == f"True {wheel}/bulksms_client/sync/campaigns.py\n"


def test_the_blocking_client_in_use_is_built_from_the_asyncio_one_as_it_is_now(checkout: Path) -> None:
    run(checkout / "hatch_build.py")
    built = {path.name: path.read_text(encoding="utf-8") for path in (checkout / SYNC).glob("*.py")}
    in_use = {path.name: path.read_text(encoding="utf-8") for path in (LIBRARY / SYNC).glob("*.py")}
    assert built == in_use, "run: make stubs"
    assert not [text for text in built.values() if "async " in text or "await " in text]
