"""A PostgreSQL data folder: where it can be on this machine, made by initdb once, and whose it is."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from devstack.accounts import can_write, guarded
from devstack.postgres_installation import (
    CURE,
    PostgresInstallation,
    PostgresUnavailableError,
    find_installations,
    private_folder_candidates,
)
from devstack.process_run import base_environment

SUPERUSER = "postgres"

_INITDB_TIMEOUT_SECONDS = 120

# Below the stack's folder: where the data is, when it cannot be below the stack's folder.
_LOCATION = "location"
_PRIVATE_PREFIX = "bulksms-postgres-"


class PostgresCluster:
    """The data of one server, and what can run on it; known after `prepare`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.password = ""
        """The superuser's."""
        self._home: Path | None = None
        self._installation: PostgresInstallation | None = None

    @property
    def installation(self) -> PostgresInstallation:
        """The programs, and the account they run as."""
        if self._installation is None:
            raise RuntimeError("PostgreSQL has not been started")
        return self._installation

    @property
    def home(self) -> Path:
        """The folder the server's account can write: `folder`, or one made for it."""
        if self._home is None:
            raise RuntimeError("PostgreSQL has not been started")
        return self._home

    @property
    def data(self) -> Path:
        """What PostgreSQL calls PGDATA."""
        return self.home / "data"

    def prepare(self) -> None:
        """Find an account that can run PostgreSQL on this folder, and make the cluster if there is none."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tried: list[str] = []
        for installation in find_installations():
            self._home = self._find_home(installation)
            if self._home is None:
                tried.append(f"{installation.account}: cannot write {self.folder} or a temporary folder")
                continue
            self._installation = installation
            try:
                self._read_or_make_cluster()
            except (subprocess.SubprocessError, OSError) as error:
                tried.append(f"{installation.account} with {installation.programs}: {_said(error)}")
                continue
            return
        attempts = "; ".join(tried) or "no PostgreSQL programs were found that can be run"
        raise PostgresUnavailableError(f"No PostgreSQL can be started here ({attempts}). {CURE}")

    def remove(self) -> None:
        """Delete it, wherever it is."""
        for home in (self._home, self._recorded_home(), self.folder):
            if home is not None:
                shutil.rmtree(home, ignore_errors=True)
        self._home = self._installation = None

    def _find_home(self, installation: PostgresInstallation) -> Path | None:
        """Return a folder for data that the account can write: below ours, else a private one that ours records."""
        account, record = installation.account, self.folder / _LOCATION
        if not account.is_other_user:
            return self.folder
        recorded = self._recorded_home()
        if recorded is not None and recorded.lstat().st_uid == account.uid and can_write(recorded, account):
            return recorded
        home = self.folder / "server"
        home.mkdir(mode=0o700, exist_ok=True)
        os.chown(home, account.uid, account.gid)
        if can_write(home, account):
            return home
        home.rmdir()  # below a folder closed to others, such as /root
        for place in private_folder_candidates():
            home = Path(tempfile.mkdtemp(prefix=_PRIVATE_PREFIX, dir=place))
            os.chown(home, account.uid, account.gid)
            if can_write(home, account):
                record.write_text(str(home))
                return home
            home.rmdir()
        return None

    def _recorded_home(self) -> Path | None:
        """Return the private folder an earlier start had to use, if it is still there."""
        try:
            recorded = Path((self.folder / _LOCATION).read_text())
        except OSError:
            return None
        return recorded if recorded.name.startswith(_PRIVATE_PREFIX) and recorded.is_dir() else None

    def _read_or_make_cluster(self) -> None:
        password_file = self.folder / "password"
        if (self.data / "PG_VERSION").exists():
            owner = self.data.stat().st_uid
            if owner != self.installation.account.uid:
                raise OSError(f"{self.data} belongs to user {owner}: go on as that user, or remove the folder")
            self.password = password_file.read_text()
            return
        self.password = secrets.token_hex(16)
        with contextlib.suppress(FileNotFoundError):
            password_file.unlink()
        descriptor = os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(self.password)
        self._make_cluster()

    def _make_cluster(self) -> None:
        """Run initdb in a folder that gets its name only when it is complete."""
        installation = self.installation
        unfinished = self.home / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        given = self.home / "password.given"
        given.write_text(self.password)
        given.chmod(0o600)
        os.chown(given, installation.account.uid, installation.account.gid)
        # The built-in provider knows upper and lower case of every script, sorts bytewise, and is the same everywhere.
        modern = installation.major_version >= 17
        locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"] if modern else ["--locale=C"]
        command: list[str | os.PathLike[str]] = [
            installation.programs / "initdb",
            f"--pgdata={unfinished}",
            f"--username={SUPERUSER}",
            f"--pwfile={given}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            *locale,
            "--no-sync",
            "--no-instructions",
        ]
        try:
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
        finally:
            given.unlink(missing_ok=True)
        unfinished.rename(self.data)


def _said(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError) and error.stderr:
        return str(error.stderr).strip().splitlines()[-1]
    return str(error)
