"""A PostgreSQL data folder: made by initdb once, in one place, and used by whichever account can run on it."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from devstack.accounts import can_write, give, guarded
from devstack.identity import write_private
from devstack.postgres_installation import CURE, PostgresInstallation, PostgresUnavailableError, find_installations
from devstack.process_run import base_environment

SUPERUSER = "postgres"

_INITDB_TIMEOUT_SECONDS = 120
_UNFINISHED_PREFIX = "unfinished-"


class PostgresCluster:
    """The data of one server, and what can run on it; known after `prepare`.

    There is one place for the data and one password, whoever PostgreSQL runs as: a start that finds another account,
    or follows one that failed half-way, goes on with what is there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        """What PostgreSQL calls PGDATA; it has this name only when it is complete."""
        self.password = ""
        """The superuser's."""
        self._installation: PostgresInstallation | None = None

    @property
    def installation(self) -> PostgresInstallation:
        """The programs, and the account they run as."""
        if self._installation is None:
            raise RuntimeError("PostgreSQL has not been started")
        return self._installation

    def prepare(self) -> None:
        """Find an account that can run PostgreSQL on this folder, and make the cluster if there is none."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for abandoned in self.folder.glob(f"{_UNFINISHED_PREFIX}*"):
            shutil.rmtree(abandoned, ignore_errors=True)
        self.password = self._read_or_make_password()
        tried: list[str] = []
        for installation in find_installations():
            try:
                self._make_usable(installation)
            except (subprocess.SubprocessError, OSError) as error:
                tried.append(f"{installation.account} with {installation.programs}: {_last_line(error)}")
            else:
                self._installation = installation
                return
        attempts = "; ".join(tried) or "no PostgreSQL programs were found that can be run"
        raise PostgresUnavailableError(f"No PostgreSQL can be started in {self.folder} ({attempts}). {CURE}")

    def remove(self) -> None:
        """Delete it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._installation = None

    def _read_or_make_password(self) -> str:
        path = self.folder / "password"
        if not path.exists():
            if self.data.exists():
                raise PostgresUnavailableError(
                    f"{self.data} holds data, but its password, {path}, is gone: "
                    "put it back, or delete the data with `bulksms-devstack down --delete-data`"
                )
            write_private(path, secrets.token_hex(16))
        return path.read_text()

    def _make_usable(self, installation: PostgresInstallation) -> None:
        """Have the data belong to the installation's account, within its reach; raises OSError when that cannot be."""
        if not self.data.exists():
            self._make_data(installation)
            return
        give(self.data, installation.account)
        if not can_write(self.data, installation.account):
            raise PermissionError(f"cannot write {self.data}")
        made_by = (self.data / "PG_VERSION").read_text().strip()
        if made_by != str(installation.major_version):
            raise OSError(f"it is PostgreSQL {installation.major_version}, the data is of {made_by}")

    def _make_data(self, installation: PostgresInstallation) -> None:
        """Run initdb in a folder that gets its name only when it is complete."""
        unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED_PREFIX, dir=self.folder))
        try:
            data, given = unfinished / "data", unfinished / "password"
            data.mkdir(mode=0o700)
            write_private(given, self.password)
            give(unfinished, installation.account)
            if not can_write(data, installation.account):
                raise PermissionError(f"cannot write {self.folder}")
            _initdb(installation, data, given)
            data.rename(self.data)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def _initdb(installation: PostgresInstallation, data: Path, password_file: Path) -> None:
    # The built-in provider knows upper and lower case of every script, sorts bytewise, and is the same everywhere.
    modern = installation.major_version >= 17
    locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"] if modern else ["--locale=C"]
    command: list[str | os.PathLike[str]] = [
        installation.programs / "initdb",
        f"--pgdata={data}",
        f"--username={SUPERUSER}",
        f"--pwfile={password_file}",
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        *locale,
        "--no-sync",
        "--no-instructions",
    ]
    subprocess.run(
        guarded(command, installation.account, signal.SIGKILL),
        cwd="/",
        env=base_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_INITDB_TIMEOUT_SECONDS,
        check=True,
    )


def _last_line(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError) and error.stderr:
        return str(error.stderr).strip().splitlines()[-1]
    return str(error)
